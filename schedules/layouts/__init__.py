"""How feature maps lie in memory, and the kernels that convert between the layouts."""
