"""Videos and contact sheets of a recording."""
