"""ROS messages to and from arrays, without ROS: for the nodes, and for bags."""
