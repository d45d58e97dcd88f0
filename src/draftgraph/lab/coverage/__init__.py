"""Which model types of transformers run here: every one of them is built small, tried, and entered in a table."""
