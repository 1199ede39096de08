"""Convolutions and dense layers of few float32 weights: a multiply-add for each."""
