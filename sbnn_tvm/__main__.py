"""``python -m sbnn_tvm`` is ``sbnn-tvm``."""

from .cli import main

main()
