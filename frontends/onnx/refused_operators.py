"""Standard operators that are refused on purpose, and why."""

from __future__ import annotations

_STRINGS = "works on strings, which a compiled network does not have; do it before the network"
_RANDOM = "draws random numbers, so its result cannot be verified; make them outside and pass them as an input"
_DATA = "has an output whose shape depends on the data, which is not supported; every shape must follow from the inputs"
_SEQUENCES = "works on sequences or optional values, not tensors; export the model with tensors alone"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"), _STRINGS),
    "TfIdfVectorizer": "counts n-grams of text, which is not supported; do it before the network",
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), _RANDOM),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), _RANDOM),
    "ImageDecoder": "decodes image files, which is not supported; decode them before the network",
    **dict.fromkeys(("ConstantOfShape", "NonMaxSuppression", "NonZero", "Unique"), _DATA),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt"), _SEQUENCES),
    **dict.fromkeys(("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"), _SEQUENCES),
    **dict.fromkeys(("ConcatFromSequence", "SequenceLength", "SequenceMap", "SplitToSequence"), _SEQUENCES),
}
"""By operator, the reason as the end of a sentence about the node."""
