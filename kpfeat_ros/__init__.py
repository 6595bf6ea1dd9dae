"""ROS 2 nodes around kpfeat_core: they convert, call, convert, publish, and compute nothing."""

import os

# OpenMP reads this when torch is loaded. Its threads would otherwise spin while they wait, and
# keep the cores from other nodes: on two busy ones a matcher took 100 ms instead of 8 for a pair.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
