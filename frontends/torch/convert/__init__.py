"""Float models made binary: their layers replaced, with further training or without."""
