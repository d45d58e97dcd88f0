"""Training of feature drafters: answers of the target, a staged recipe, held-out figures, a card."""
