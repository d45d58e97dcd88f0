"""Shapes of drafts: which nodes are drafted, and how each is drawn."""
