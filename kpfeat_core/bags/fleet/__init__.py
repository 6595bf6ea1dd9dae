"""Many recordings, one after the other or at the same time."""
