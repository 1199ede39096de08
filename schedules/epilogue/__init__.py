"""Epilogues, the operations between a layer's result and its stores: program, numpy interpreter, code generator."""
