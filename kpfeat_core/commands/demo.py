"""`kpfeat demo`: the ROS nodes on a virtual camera."""

import importlib.util

import typer

from .common import examples
from ..errors import KpfeatError

EPILOG = examples(
    'kpfeat demo',
    'kpfeat demo --images drive/',
    'kpfeat demo --video drive.mp4',
)
# Flags belong to the demo itself, which parses them.
CONTEXT = {'allow_extra_args': True, 'ignore_unknown_options': True}


def demo(context: typer.Context) -> None:
    """
    Run camera, extractor, matcher and overlay nodes over ROS 2, and print rates and accuracy.

    Further arguments go to the demo; `python -m kpfeat_ros.demo --help` lists them.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise KpfeatError(
            'the demo runs ROS 2 nodes, and rclpy cannot be imported here; run `make demo` in the '
            'repository, which installs what it needs, or source a ROS 2 installation first'
        )
    from kpfeat_ros.demo import main

    raise typer.Exit(main(context.args) or 0)
