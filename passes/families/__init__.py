"""The kernel families, one per file, and the choice among them."""
