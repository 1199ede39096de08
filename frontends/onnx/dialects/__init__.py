"""Readers of other dialects of ONNX: their nodes become standard operators before the model is checked."""
