"""Recordings without a ROS installation: features, matches, pictures, numbers."""
