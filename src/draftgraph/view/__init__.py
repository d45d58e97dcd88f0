"""Pictures of what happened: pure functions of results, events and round records."""
