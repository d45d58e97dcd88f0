"""Rows in, logits out: models that score the committed text and the nodes of drafts."""
