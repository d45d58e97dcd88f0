"""Tables of n-grams: counted from texts, kept in files, and learning on from what a target says."""
