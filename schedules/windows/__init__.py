"""Sliding windows that keep channels apart: poolings and the depthwise convolution."""
