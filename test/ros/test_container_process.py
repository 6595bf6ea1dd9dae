"""A container as a program: its command line, parameters and end."""

import os
import signal
import subprocess
import sys
from typing import Any


def test_given_nodes_follow_the_command_line_but_keep_their_names() -> None:
    from kpfeat_ros.container import package_of, without_names

    words = [
        '--ros-args',
        '-r',
        '__node:=box',
        '-r',
        '__ns:=/a',
        '--remap',
        '__name:=b',
        '-p',
        'c:=1',
    ]
    assert without_names(words) == ['--ros-args', '-r', '__ns:=/a', '-p', 'c:=1']
    assert package_of('kpfeat::ExtractorNode') == 'kpfeat'
    assert package_of('a.b:Class') == 'a'


def start(folder: Any, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, 'PYTHONPATH': f'{folder}:{os.environ.get("PYTHONPATH", "")}'}
    return subprocess.Popen(
        [sys.executable, '-m', 'kpfeat_ros.container', *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def said_by(process: subprocess.Popen) -> str:
    """Return all that a process says until it ends by itself."""
    try:
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


def test_process_starts_the_nodes_of_command_line_and_parameter_and_ends_on_interrupt(
    ros, others
) -> None:
    process = start(
        others,
        'one=others_nodes:Plain',
        '--ros-args',
        *('-r', '__node:=box', '-r', '__ns:=/a', '-r', 'out:=changed'),
        *('-p', "components:=['others::Open']"),
    )
    try:
        wanted = {'/a/box', '/a/one', '/a/open'}
        ros.until(lambda: wanted <= set(ros.names()) or process.poll() is not None, 'the nodes')
        ros.until(lambda: ros.probe.count_publishers('/a/changed'), 'the remapped topic')
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_process_ends_with_one_sentence_if_a_given_node_fails(ros_context, others) -> None:
    process = start(others, 'kpfeat::Absent')
    said = said_by(process)
    assert process.returncode == 2, said
    assert (
        said.strip().splitlines()[-1].startswith("error: there is no component 'kpfeat::Absent'")
    )


def test_process_that_is_interrupted_while_it_loads_ends(ros, others) -> None:
    process = start(others, 'others_nodes:Slow')
    try:
        ros.until(lambda: '/ComponentManager' in ros.names(), 'the container')
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT)
    finally:
        process.kill()
        process.communicate()


def test_help_of_the_container_tells_how_to_give_nodes(ros_context, others) -> None:
    process = start(others, '--help')
    said = said_by(process)
    assert process.returncode == 0
    assert 'kpfeat::ExtractorNode' in said
