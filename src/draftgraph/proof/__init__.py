"""The prover: exact output laws by enumeration, the mistakes that it must catch, and the bounds that no rule can beat."""
