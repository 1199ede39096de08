"""Kernels without a window: elementwise maps, channel selection, sample means."""
