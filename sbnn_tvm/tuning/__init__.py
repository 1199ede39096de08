"""Find the fastest kernels for a network on a machine, by measuring them."""
