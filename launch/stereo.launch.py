"""
Everything for two cameras, and matches between them on left_right/matches.

    ros2 launch kpfeat stereo.launch.py image:=image_raw namespace:=stereo

The images are those of left/image_raw and right/image_raw in that namespace; all arguments of
kpfeat.launch.py can be given as well.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    """Declare the names of the cameras and start their nodes."""
    left, right = LaunchConfiguration('left'), LaunchConfiguration('right')
    chosen = {'cameras': [left, ',', right], 'pairs': [left, '-', right]}
    nodes = PythonLaunchDescriptionSource(str(Path(__file__).with_name('kpfeat.launch.py')))
    return LaunchDescription(
        [
            DeclareLaunchArgument('left', default_value='left', description='first camera'),
            DeclareLaunchArgument('right', default_value='right', description='second camera'),
            IncludeLaunchDescription(nodes, launch_arguments=chosen.items()),
        ]
    )
