"""Convolutions with sparse binary weights: bit planes are added into bit-sliced counters."""
