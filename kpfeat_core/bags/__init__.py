"""Recordings without a ROS installation: reading, features of every image, writing."""
