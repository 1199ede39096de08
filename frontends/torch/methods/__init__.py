"""Published training methods, one per file."""
