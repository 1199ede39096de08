"""Direct convolutions and dense layers: one loop nest, for float32 and for packed bits."""
