"""Training and evaluation as plain functions; ``run`` is what ``tools/main.py`` calls."""
