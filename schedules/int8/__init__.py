"""Layers on bytes: convolutions, dense layers and depthwise convolutions whose sums are exact integers."""
