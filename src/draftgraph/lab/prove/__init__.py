"""What a rule emits, exactly: output laws by enumeration, bounds, and mistakes that must fail."""
