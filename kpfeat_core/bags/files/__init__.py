"""Files of recordings, of every storage."""
