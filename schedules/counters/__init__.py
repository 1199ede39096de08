"""Convolutions of sparse binary weights: bit planes are added into bit-sliced counters."""
