"""Timing: whole functions, every kernel alone, and the limits of the machine."""
