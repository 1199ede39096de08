"""The command line, ``sbnn-tvm``."""
