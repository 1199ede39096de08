"""Lowering: replace composites by kernel calls, share memory, and generate machine code."""
