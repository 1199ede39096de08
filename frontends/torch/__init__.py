"""PyTorch: modules, training, export."""
