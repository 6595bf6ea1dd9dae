"""ROS 2 nodes around kpfeat_core: they convert, call, convert, publish, and compute nothing."""

from kpfeat_core.threads import share_cores

# Spinning threads would keep the cores from other nodes: on two busy ones a matcher took 100 ms
# instead of 8 for a pair.
share_cores()
