"""The C and JavaScript sources of programs that run a library outside this process (programs.py)."""
