"""Run a lowered model kernel by kernel, on this machine or in an emulator."""
