"""Measurements, one script a theme. Run as modules, `python -m bench overhead`."""
