"""Which layers of a network to make binary, under a budget."""
