"""Verification rules: pure functions of (draft, target law, random numbers). No model, no transformers."""
