"""Kernels on packed words without weights: packing, shifts, sums over windows."""
