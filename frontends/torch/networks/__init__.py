"""Published binary networks, and the configuration that they share."""
