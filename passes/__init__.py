"""Relax to Relax: one pass a file; pipeline.py lists them in order."""
