"""Constants that are stored in a shorter coding, and the kernels that expand them when a library is loaded."""
