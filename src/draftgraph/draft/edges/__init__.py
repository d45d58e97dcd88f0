"""Copies: what text already seen says may follow."""
