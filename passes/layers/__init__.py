"""Layers as data, and their epilogues, fitted to the integers that the kernels compute."""
