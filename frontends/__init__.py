"""Front ends: bring a model in."""
