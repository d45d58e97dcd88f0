"""What the commands do once their options are read. Imports torch and transformers, so that `cli` need not."""
