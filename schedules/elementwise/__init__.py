"""Kernels without a window: elementwise maps, selections of channels, means."""
