"""Front ends: import of models from ONNX and PyTorch."""
