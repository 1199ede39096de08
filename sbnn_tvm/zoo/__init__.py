"""Small trained networks, as ONNX files with ai.sbnn operators: to see the compiler at work without any training.

``load`` gives a model with its card and with test images of its data set. The model is a path, and goes wherever an
ONNX file goes: ``sbnn_tvm.compile``, ``onnx.load``, ``onnxruntime.InferenceSession``. ``examples/train_zoo.py`` made
them.
"""

from .card import Card
from .zoo_models import ZooModel, load, names

__all__ = ["Card", "ZooModel", "load", "names"]
