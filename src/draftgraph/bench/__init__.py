"""Speed and acceptance against other decoders, on the same weights and prompts, in turns in one process."""
