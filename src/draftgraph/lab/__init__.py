"""Questions about pairs and rules, each with its own report beside it. Only the command line and experiments import it."""
