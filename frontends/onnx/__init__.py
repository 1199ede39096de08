"""ONNX: the ai.sbnn operator set and the importer."""
