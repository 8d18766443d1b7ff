"""Data, model and a training loop to read from top to bottom: a BERT that tells good film reviews from bad."""
