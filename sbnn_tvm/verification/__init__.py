"""Compare a compiled model with onnxruntime."""
