"""Doors to trainers that bring their own loop. Each imports its library when it is imported itself, and not before."""
