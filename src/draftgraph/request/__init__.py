"""One request: its state, its text, what it gives back."""
