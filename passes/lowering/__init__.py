"""From composites to calls of kernels, and from these to machine code."""
