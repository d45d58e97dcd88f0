"""How much drafting pays: costs of passes, counts of what was accepted, the limits of a round."""
