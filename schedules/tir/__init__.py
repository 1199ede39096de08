"""Building blocks for TIR: functions, loops, vectors, and LLVM functions for operations that TIR lacks."""
