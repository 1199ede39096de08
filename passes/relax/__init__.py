"""Relax functions as data: reading and writing them, and what their pieces provably are."""
