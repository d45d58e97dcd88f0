"""Measurements: speed and acceptance against transformers, on the same weights in the same process."""
