"""Names of the networks that can be trained, which the command line knows without loading them."""

OWN = "own"
NAMES = (OWN, "eagle3", "eagle", "hass", "fspad", "griffin", "chimera", "glide", "exit", "specdec", "specdiff")

EXIT, SPECDIFF = "exit", "specdiff"
BLOCKS = ("specdec", SPECDIFF)
SLOTS = 5
"""Tokens of a block, if nobody says."""
