"""``python -m sbnn_tvm`` is ``sbnn-tvm``."""

from .cli.app import main

main()
