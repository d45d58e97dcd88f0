"""How the bundled pair was trained."""
