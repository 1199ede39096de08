"""Sliding windows that process each channel separately: poolings and the depthwise convolution."""
