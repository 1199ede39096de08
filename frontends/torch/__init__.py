"""PyTorch front end: binary layers, their training, the conversion of float models, and the export to ONNX."""

from sbnn_tvm.frontends.torch.convert import FIRST, LAST, BinaryConfig, Conversion, LayerNote, binarize_
from sbnn_tvm.frontends.torch.domains import ScaledSigns, Signs, TwoValues, WeightDomain
from sbnn_tvm.frontends.torch.estimators import (
    EDE,
    Clip,
    Estimator,
    Identity,
    Polynomial,
    binarize,
    set_progress,
)
from sbnn_tvm.frontends.torch.export import export_onnx, to_onnx
from sbnn_tvm.frontends.torch.models import VGG, ResNet, resnet, resnet18, vgg_small
from sbnn_tvm.frontends.torch.modules import (
    Binarize,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    RPReLU,
    clamp_latent_,
)
from sbnn_tvm.frontends.torch.quicknet import QuickNet, quicknet
from sbnn_tvm.frontends.torch.reactnet import ReActNet, reactnet

__all__ = [
    "EDE",
    "FIRST",
    "LAST",
    "VGG",
    "Binarize",
    "BinaryConfig",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Clip",
    "Conversion",
    "Estimator",
    "Identity",
    "LayerNote",
    "Polynomial",
    "QuickNet",
    "RPReLU",
    "ReActNet",
    "ResNet",
    "ScaledSigns",
    "Signs",
    "TwoValues",
    "WeightDomain",
    "binarize",
    "binarize_",
    "clamp_latent_",
    "export_onnx",
    "quicknet",
    "reactnet",
    "resnet",
    "resnet18",
    "set_progress",
    "to_onnx",
    "vgg_small",
]
