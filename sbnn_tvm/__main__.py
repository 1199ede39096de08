"""``python -m sbnn_tvm`` runs the command line ``sbnn-tvm``."""

from .cli.app import main

main()
