"""Codings of constants, and the kernels that expand them when a library is loaded."""
