"""Benches of speed and memory, a theme a file: `python -m bench overhead` runs one."""
