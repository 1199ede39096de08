"""What to compile for, and the library that comes out."""
