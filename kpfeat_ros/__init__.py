"""ROS 2 nodes around kpfeat_core: they convert, call, convert, publish, and compute nothing."""
