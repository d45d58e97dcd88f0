"""What is wrong with a pair, and what to try instead."""
