"""Whether a real pair emits the target's law: a test on samples, with its power."""
