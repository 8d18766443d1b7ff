"""Doors into trainers and launchers; each module imports its library when it is imported itself, and no sooner."""
