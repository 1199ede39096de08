"""The phases: passes from Relax to Relax, one per file. ``passes/pipeline.py`` lists them in order."""
