"""Training of the pair of models that ships with the package."""
