"""The choice of the layers of a network to make binary, under a budget."""
