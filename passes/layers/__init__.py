"""Layers as data, and their epilogues fitted to what the kernels compute."""
