"""What results of a recording are written to."""
