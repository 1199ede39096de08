"""Targets, and linking the library."""
