"""The algebra of two-valued tensors, and codings of their bits."""
