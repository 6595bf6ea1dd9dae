"""How fast, how large and how costly extractors are, side by side in one run."""
