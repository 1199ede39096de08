"""``python -m sbnn_tvm`` is ``sbnn-tvm``."""

from sbnn_tvm.cli import main

main()
