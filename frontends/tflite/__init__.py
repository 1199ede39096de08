"""The import of TFLite files, with the operators of Larq Compute Engine, by way of ONNX."""
