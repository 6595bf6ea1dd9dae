"""
Extractor, matcher and overlay node for one camera, or for each of several and for their pairs.

    ros2 launch kpfeat kpfeat.launch.py image:=/camera/image_raw model:=alike-t
    ros2 launch kpfeat kpfeat.launch.py cameras:=left,right image:=image_raw composed:=true
    ros2 launch kpfeat kpfeat.launch.py cameras:=a,b,c pairs:=a-b,b-c image:=image_raw

What is started is decided in kpfeat_ros/bringup.py; `--show-args` lists the arguments.
"""

from kpfeat_ros import bringup
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LoadComposableNodes, Node
from launch_ros.descriptions import ComposableNode

RESPAWN_DELAY_S = 2.0


def start(context):
    """Return the actions for the arguments given."""
    texts = {
        a.name: LaunchConfiguration(a.name).perform(context) for a in bringup.launch_arguments()
    }
    around = context.launch_configurations.get('ros_namespace', '')  # of PushRosNamespace
    options = bringup.options_from_texts(texts, around)
    how = bringup.file_options_from_texts(texts)
    plans = bringup.plan_nodes(options)
    if how.container:
        actions = [load(plans, how.container, context)]
    elif options.composed:
        # the file is passed on as that of a node is, to count more than SetParameter around here
        files, arguments = bringup.composed_parts(options)
        actions = [process(how, 'bringup', arguments=arguments, parameters=files)]
    else:
        actions = [
            process(
                how,
                plan.executable,
                arguments=plan.default_arguments(),
                name=plan.name,
                namespace=plan.namespace,
                parameters=[*plan.params_files, plan.parameters],
                remappings=list(plan.remappings.items()),
            )
            for plan in plans
        ]
    return [*actions, *([viewer(options)] if how.rviz else [])]


def process(how, executable, arguments, **more):
    """Return the action that starts a process of kpfeat, and ends the launch when that ends."""
    level = ['--ros-args', '--log-level', how.log_level] if how.log_level != 'info' else []
    more |= (
        {'respawn': True, 'respawn_delay': RESPAWN_DELAY_S} if how.respawn else {'on_exit': end}
    )
    return Node(
        package='kpfeat',
        executable=executable,
        arguments=[*arguments, *level],
        output='screen',
        **more,
    )


def end(event, context):
    """End the launch because one of its nodes has ended."""
    if context.is_shutdown:
        return []
    words = f'{event.process_name} ended with code {event.returncode}: so all others end too'
    return [LogInfo(msg=words), Shutdown(reason=words)]


def load(plans, container, context):
    """Return the action that loads nodes into a container that runs."""
    for_all = context.launch_configurations.get('global_params', ())  # of SetParameter
    known = {entry[0] for entry in for_all if isinstance(entry, tuple)}
    nodes = [
        ComposableNode(
            package='kpfeat',
            plugin=f'kpfeat::{plan.class_name}',
            name=plan.name,
            namespace=plan.namespace,
            parameters=[bringup.parameters_of(plan, known)],
            remappings=list(plan.remappings.items()),
        )
        for plan in plans
    ]
    return LoadComposableNodes(target_container=container, composable_node_descriptions=nodes)


def viewer(options):
    """Return the action that starts rviz2 on the topics of the first camera."""
    file, topics = bringup.viewer(options)
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', file],
        remappings=topics,
        parameters=[{'use_sim_time': options.use_sim_time}],
        output='screen',
    )


def generate_launch_description():
    """Declare the arguments and start the nodes."""
    arguments = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.help,
            choices=list(argument.choices) or None,
        )
        for argument in bringup.launch_arguments()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
