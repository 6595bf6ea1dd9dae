"""Recordings without a ROS installation: features, matches, pictures and numbers of their images."""
