"""Doors to trainers; each imports its library only when it is itself imported."""
