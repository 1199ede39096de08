"""A compiled model as a C library: no TVM, no Python, no C++; a C library only where threads need it.

A model arrives as a ``Program`` (program.py) and as object files with its kernels. What is written from it:

1. ``memory_plan.py`` gives every value a place in one arena.
2. ``driver.py`` writes readable C that calls the kernels one after the other.
3. ``interface.py`` writes the header, and the tables that describe the model to the fixed runtime (``runtime/``).
4. ``toolchain.py`` compiles and links this for a target; ``write_library.py`` writes a library, archive or folder.
"""
