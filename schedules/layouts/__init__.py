"""Memory layouts of feature maps, and the kernels that convert between them."""
