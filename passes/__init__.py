"""The compiler passes. ``pipeline.py`` lists them in order."""
