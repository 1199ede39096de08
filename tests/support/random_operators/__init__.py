"""Random nodes of standard operators, compared with onnxruntime."""
