"""Drafting: what to propose, with the law of every slot."""
