"""PyTorch front end: binary layers, their training, the conversion of float models, and the export to ONNX."""

from sbnn_tvm.frontends.torch.adabin import Adaptive, AdaptiveBinarize, Maxout
from sbnn_tvm.frontends.torch.apb import APB, APBMemory, FreezeAPB, apb_memory, apb_parameter_groups
from sbnn_tvm.frontends.torch.bcdnet import BCDNet, bcdnet
from sbnn_tvm.frontends.torch.codebook import SubBit
from sbnn_tvm.frontends.torch.contrastive import ContrastiveLoss, info_nce
from sbnn_tvm.frontends.torch.convert import FIRST, LAST, BinaryConfig, Conversion, LayerNote, binarize_
from sbnn_tvm.frontends.torch.distillation import BlockDistillation
from sbnn_tvm.frontends.torch.domains import Bits, ScaledBits, ScaledSigns, Signs, TwoValues, WeightDomain
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
from sbnn_tvm.frontends.torch.partial_binarization import PartialBinarization, search_partial_binarization
from sbnn_tvm.frontends.torch.post_training import Quantization, QuantizedLayer, quantize_, recalibrate_
from sbnn_tvm.frontends.torch.quantizers import EWGS, DoReFa, Quantizer, Symmetric
from sbnn_tvm.frontends.torch.quicknet import QuickNet, quicknet
from sbnn_tvm.frontends.torch.reactnet import ReActNet, group_mobilenet, reactnet
from sbnn_tvm.frontends.torch.regularisers import KurtosisPenalty, ReconstructionPenalty
from sbnn_tvm.frontends.torch.sbnn import ExpectedConnections, keep_densest_
from sbnn_tvm.frontends.torch.siman import BinarizeAboveMean, Magnitudes, parameter_groups
from sbnn_tvm.frontends.torch.two_bits import TwoBits

__all__ = [
    "APB",
    "EDE",
    "EWGS",
    "FIRST",
    "LAST",
    "VGG",
    "APBMemory",
    "Adaptive",
    "AdaptiveBinarize",
    "BCDNet",
    "Binarize",
    "BinarizeAboveMean",
    "BinaryConfig",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Bits",
    "BlockDistillation",
    "Clip",
    "ContrastiveLoss",
    "Conversion",
    "DoReFa",
    "Estimator",
    "ExpectedConnections",
    "FreezeAPB",
    "Identity",
    "KurtosisPenalty",
    "LayerNote",
    "Magnitudes",
    "Maxout",
    "PartialBinarization",
    "Polynomial",
    "Quantization",
    "QuantizedLayer",
    "Quantizer",
    "QuickNet",
    "RPReLU",
    "ReActNet",
    "ReconstructionPenalty",
    "ResNet",
    "ScaledBits",
    "ScaledSigns",
    "Signs",
    "SubBit",
    "Symmetric",
    "TwoBits",
    "TwoValues",
    "WeightDomain",
    "apb_memory",
    "apb_parameter_groups",
    "bcdnet",
    "binarize",
    "binarize_",
    "clamp_latent_",
    "export_onnx",
    "group_mobilenet",
    "info_nce",
    "keep_densest_",
    "parameter_groups",
    "quantize_",
    "quicknet",
    "reactnet",
    "recalibrate_",
    "resnet",
    "resnet18",
    "search_partial_binarization",
    "set_progress",
    "to_onnx",
    "vgg_small",
]
