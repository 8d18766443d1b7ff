"""The loss interface."""
