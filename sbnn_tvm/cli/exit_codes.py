"""The exit codes of ``sbnn-tvm`` other than 0."""

MISMATCH = 1
"""The compiled model differs from onnxruntime."""

USER_ERROR = 2
"""A wrong argument, file or option; one sentence on stderr explains it."""

DEFECT = 70
"""A defect of sbnn-tvm."""

INTERRUPTED = 130
"""Interrupted by Ctrl-C."""
