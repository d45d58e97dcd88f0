"""The same prompts and weights, decoded in turns by everyone who can."""
