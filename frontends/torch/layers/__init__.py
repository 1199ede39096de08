"""Binary layers for PyTorch: modules, weight domains, gradient estimators, quantisers."""
