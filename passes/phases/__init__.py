"""From Relax to Relax, one phase a file; pipeline.py lists them in order."""
