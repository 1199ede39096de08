"""Everything that a device needs to load and run a library."""
