"""ONNX front end: the importer, and the ai.sbnn operator set."""
