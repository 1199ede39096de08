"""Kernel families, one door a file, and the choice among them."""
