"""One distribution: options, logits to probabilities, randomness."""
