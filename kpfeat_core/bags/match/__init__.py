"""Matches between the images of a recording."""
