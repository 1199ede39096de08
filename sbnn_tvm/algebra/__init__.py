"""Two-valued tensors, and the codings of their bits."""
