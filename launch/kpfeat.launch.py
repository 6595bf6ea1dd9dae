"""
Extractor, matcher and overlay node for one camera, or for each of several and for their pairs.

    ros2 launch kpfeat kpfeat.launch.py image:=/camera/image_raw model:=alike-t
    ros2 launch kpfeat kpfeat.launch.py cameras:=left,right image:=image_raw composed:=true
    ros2 launch kpfeat kpfeat.launch.py cameras:=a,b,c pairs:=a-b,b-c image:=image_raw

What is started is decided in kpfeat_ros/bringup.py; `--show-args` lists the arguments.
"""

from kpfeat_ros import bringup
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def start(context):
    """Return the actions for the arguments given."""
    names = [name for name, _, _ in bringup.launch_arguments()]
    texts = {name: LaunchConfiguration(name).perform(context) for name in names}
    around = context.launch_configurations.get('ros_namespace', '')  # of PushRosNamespace
    options = bringup.options_from_texts(texts, around)
    if options.composed:
        arguments = bringup.composed_arguments(options)
        return [Node(package='kpfeat', executable='bringup', arguments=arguments, output='screen')]
    return [
        Node(
            package='kpfeat',
            executable=plan.executable,
            name=plan.name,
            namespace=plan.namespace,
            parameters=[*plan.params_files, plan.parameters],
            remappings=list(plan.remappings.items()),
            output='screen',
        )
        for plan in bringup.plan_nodes(options)
    ]


def generate_launch_description():
    """Declare the arguments and start the nodes."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in bringup.launch_arguments()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
