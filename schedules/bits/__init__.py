"""Kernels without weights on packed words: packing, channel selection, shifts, max pooling, window sums."""
