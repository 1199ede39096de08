"""Conversion of float models to binary ones, with or without further training."""
