"""ROS 2 nodes around kpfeat_core: they convert, call, convert, publish, and compute nothing."""

import sys

if sys.argv[:1] == ['-m']:  # so it is while Python looks for the module of `python -m`
    from kpfeat_core.runtime import leave_if_missing

    from .process import end_quietly_on_interrupt

    end_quietly_on_interrupt()
    leave_if_missing(nodes=True)
