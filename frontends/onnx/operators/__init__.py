"""Converters of standard ONNX operators to Relax, a file per subject; table.py has them all by name."""
