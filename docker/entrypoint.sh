#!/bin/bash
# Run a command where ROS and kpfeat are sourced.
set -e
source /opt/kpfeat/setup.bash
exec "$@"
