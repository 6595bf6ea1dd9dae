"""Nodes in the process of a test, and a probe that talks to them over real DDS."""

from collections.abc import Callable
import time
from typing import Any

import numpy as np
import pytest

WAIT_S = 30.0  # until a test gives up; nothing takes this long


class Ros:
    """Nodes in this process and a probe that talks to them, all spun by the test."""

    def __init__(self, weights: str) -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.weights = weights
        self.executor = SingleThreadedExecutor()
        self.nodes: list[Any] = []
        self.subscriptions: dict[int, Any] = {}
        self.probe = self.add(Node('probe'))
        self.stamp = 0

    def add(self, node: Any) -> Any:
        """Spin a node as well; it is destroyed at the end."""
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def start(self, cls: type, *arguments: str, **parameters: Any) -> Any:
        """Start one of our nodes with ROS arguments and parameters; networks are small and new."""
        if cls.__name__ == 'ExtractorNode':
            usual = {'weights': self.weights, 'device': 'cpu', 'warm_up_size': '64x64'}
            parameters = usual | parameters
        given = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
        return self.add(cls(cli_args=['--ros-args', *arguments, *given]))

    def until(self, condition: Callable[[], Any], what: str = 'condition') -> Any:
        """Spin until the condition holds, and return its value."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            self.executor.spin_once(timeout_sec=0.02)
        pytest.fail(f'waited {WAIT_S:.0f} s in vain for: {what}')

    def spin(self, seconds: float) -> None:
        """Spin for a while, to show that something does not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def listen(self, kind: type, topic: str) -> list[Any]:
        """Subscribe with the probe, once a publisher is there; messages gather in the list."""
        messages: list[Any] = []
        subscription = self.probe.create_subscription(kind, topic, messages.append, 100)
        self.subscriptions[id(messages)] = subscription
        self.until(lambda: self.probe.count_publishers(topic), f'a publisher on {topic}')
        return messages

    def stop_listening(self, messages: list[Any]) -> None:
        """Unsubscribe."""
        self.probe.destroy_subscription(self.subscriptions.pop(id(messages)))

    def camera(self, topic: str = 'image', kind: type | None = None) -> Any:
        """Return a publisher of images that somebody listens to."""
        from sensor_msgs.msg import Image

        publisher = self.probe.create_publisher(kind or Image, topic, 10)
        self.until(publisher.get_subscription_count, f'a subscriber on {topic}')
        return publisher

    def image(self, pixels: np.ndarray | None = None, **fields: Any) -> Any:
        """Make an image message with a new stamp; fields replace what does not suit the test."""
        from kpfeat_core.messages.conversions import fill_image
        from sensor_msgs.msg import Image
        from std_msgs.msg import Header

        self.stamp += 1
        header = Header(frame_id='camera_optical')
        header.stamp.sec, header.stamp.nanosec = 1000 + self.stamp, 123_456_789
        pixels = np.zeros((40, 40), np.uint8) if pixels is None else pixels
        message = fill_image(Image(), pixels, header)
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def logged(self, level: int = 40) -> list[str]:
        """Return what our nodes log at error level or above from now on."""
        from rcl_interfaces.msg import Log

        texts: list[str] = []
        self.probe.create_subscription(
            Log, '/rosout', lambda log: log.level >= level and texts.append(log.msg), 100
        )
        logging = lambda: self.probe.count_publishers('/rosout') >= len(self.nodes)  # noqa: E731
        self.until(logging, 'the log of all nodes')
        return texts

    def call(self, kind: type, name: str, **fields: Any) -> Any:
        """Call a service and return its response."""
        client = self.probe.create_client(kind, name)
        self.until(client.service_is_ready, f'service {name}')
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, f'a response of {name}')
        return future.result()

    def set(self, node: str = 'extractor', **values: Any) -> Any:
        """Set parameters together, as `ros2 param` does; gives the result."""
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        name = f'/{node}/set_parameters_atomically'
        return self.call(SetParametersAtomically, name, parameters=parameters).result

    def names(self) -> list[str]:
        """Return the full names of all nodes in the graph."""
        found = self.probe.get_node_names_and_namespaces()
        return [f'{namespace}/{name}'.replace('//', '/') for name, namespace in found]

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.destroy_node()
        self.executor.shutdown()
