"""Comparing a compiled model with onnxruntime."""
