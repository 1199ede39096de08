"""Writing TIR: functions, loops, vectors, and LLVM functions for what TIR cannot say."""
