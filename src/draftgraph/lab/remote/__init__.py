"""Whether a server emits the law of its own plain decoding: a test on what it answers, with its power."""
