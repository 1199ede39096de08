"""Schedules: generators of TIR kernels, grouped by method."""
