"""Converters of TFLite operators to ONNX nodes, a file per subject."""
