"""What happens to a layer's result before it is stored: the program, its meaning in numpy, its code."""
