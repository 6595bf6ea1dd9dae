"""ROS 2 nodes around kpfeat_core: they convert, call, convert, publish, and compute nothing."""

import sys

from kpfeat_core.runtime import keep_memory, leave_if_missing, share_cores

# Spinning threads would keep the cores from other nodes: on two busy ones a matcher took 100 ms
# instead of 8 for a pair.
share_cores()
keep_memory()

if sys.argv[:1] == ['-m']:  # so it is while Python looks for the module of `python -m`
    leave_if_missing(nodes=True)
