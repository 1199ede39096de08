"""Sparse binary neural networks from PyTorch to one small, fast CPU library, through Apache TVM."""
