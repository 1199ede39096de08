"""Published binary networks."""
