"""The tests mirror the folders of the source; ``tests/support`` holds the models and references that they share."""
