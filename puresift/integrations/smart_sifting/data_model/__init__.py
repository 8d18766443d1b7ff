"""Batches that can be sifted."""
