"""Where the time goes: timing, the machine's limits, and every kernel beside them."""
