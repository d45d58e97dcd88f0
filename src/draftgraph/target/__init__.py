"""Causal language models as the engine sees them: rows in, logits out, paths kept."""
