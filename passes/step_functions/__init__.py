"""Functions of one number that take few values: which they are, and exactly where they change. numpy alone."""
