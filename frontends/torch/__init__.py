"""PyTorch front end: binary layers, training methods, networks, conversion of float models, export to ONNX."""

from .convert.post_training import Quantization, QuantizedLayer, calibrate_, quantize_, recalibrate_
from .convert.replace_layers import DEPTHWISE, FIRST, LAST, POINTWISE, BinaryConfig, Conversion, LayerNote, binarize_
from .export import export_onnx, to_onnx
from .layers.affine_quantizers import LSQ, AffineQuantizer, MovingAverage
from .layers.domains import Bits, ScaledBits, ScaledSigns, Signs, TwoValues, WeightDomain
from .layers.estimators import EDE, Clip, Estimator, Identity, Polynomial, binarize
from .layers.modules import Binarize, BinaryConv2d, BinaryLayer, BinaryLinear, RPReLU, clamp_latent_
from .layers.quantized import EightBit, QuantizedConv2d, QuantizedLinear
from .layers.quantizers import EWGS, DoReFa, Quantizer, Symmetric
from .layers.training_state import set_progress
from .layers.two_bits import TwoBits
from .methods.adabin import Adaptive, AdaptiveBinarize, Maxout
from .methods.apb import APB, APBMemory, BinarizeStandardized, FreezeAPB, apb_memory, apb_parameter_groups
from .methods.binrelu import BinReLU
from .methods.codebook import SubBit
from .methods.contrastive import ContrastiveLoss
from .methods.distillation import BlockDistillation, DistributionMimicking
from .methods.feature_pairs import BinarizerPairs, Twin
from .methods.kernel_selection import SelectedKernels
from .methods.rbonn import RBONN, backtrack_, rbonn_parameter_groups
from .methods.regularisers import KurtosisPenalty, ReconstructionPenalty
from .methods.residual_branch import SqueezeInteraction, add_branches_
from .methods.sbnn import SBNN_CIFAR10, SBNN_CIFAR100, ExpectedConnections, SBNNRecipe, keep_densest_
from .methods.siman import BinarizeAboveMean, Magnitudes, parameter_groups
from .networks.bcdnet import BCDNet, bcdnet
from .networks.config import NetworkConfig
from .networks.quicknet import QuickNet, quicknet
from .networks.reactnet import ReActNet, group_mobilenet, reactnet
from .networks.resnet import ResNet, resnet, resnet18
from .networks.vgg import VGG, vgg_small
from .search.group_search import Evolution, SearchedGroups, search_groups
from .search.partial_binarization import PartialBinarization, search_partial_binarization

__all__ = [
    "APB",
    "DEPTHWISE",
    "EDE",
    "EWGS",
    "FIRST",
    "LAST",
    "LSQ",
    "POINTWISE",
    "RBONN",
    "SBNN_CIFAR10",
    "SBNN_CIFAR100",
    "VGG",
    "APBMemory",
    "Adaptive",
    "AdaptiveBinarize",
    "AffineQuantizer",
    "BCDNet",
    "BinReLU",
    "Binarize",
    "BinarizeAboveMean",
    "BinarizeStandardized",
    "BinarizerPairs",
    "BinaryConfig",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Bits",
    "BlockDistillation",
    "Clip",
    "ContrastiveLoss",
    "Conversion",
    "DistributionMimicking",
    "DoReFa",
    "EightBit",
    "Estimator",
    "Evolution",
    "ExpectedConnections",
    "FreezeAPB",
    "Identity",
    "KurtosisPenalty",
    "LayerNote",
    "Magnitudes",
    "Maxout",
    "MovingAverage",
    "NetworkConfig",
    "PartialBinarization",
    "Polynomial",
    "Quantization",
    "QuantizedConv2d",
    "QuantizedLayer",
    "QuantizedLinear",
    "Quantizer",
    "QuickNet",
    "RPReLU",
    "ReActNet",
    "ReconstructionPenalty",
    "ResNet",
    "SBNNRecipe",
    "ScaledBits",
    "ScaledSigns",
    "SearchedGroups",
    "SelectedKernels",
    "Signs",
    "SqueezeInteraction",
    "SubBit",
    "Symmetric",
    "Twin",
    "TwoBits",
    "TwoValues",
    "WeightDomain",
    "add_branches_",
    "apb_memory",
    "apb_parameter_groups",
    "backtrack_",
    "bcdnet",
    "binarize",
    "binarize_",
    "calibrate_",
    "clamp_latent_",
    "export_onnx",
    "group_mobilenet",
    "keep_densest_",
    "parameter_groups",
    "quantize_",
    "quicknet",
    "rbonn_parameter_groups",
    "reactnet",
    "recalibrate_",
    "resnet",
    "resnet18",
    "search_groups",
    "search_partial_binarization",
    "set_progress",
    "to_onnx",
    "vgg_small",
]
