"""Binary layers for PyTorch: modules, weight domains, gradients, quantisers."""
