"""The C and JavaScript sources of programs that run a library outside this process (standalone_runner.py)."""
