"""Convolutions and dense layers with sparse float32 weights: one multiply-add per nonzero weight."""
