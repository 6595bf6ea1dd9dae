"""Nodes of somebody else, for containers to load; tests copy this file into a package."""

import threading
import time

from rcl_interfaces.msg import Log
from rclpy.node import Node


class Plain(Node):  # as most are written: no options
    def __init__(self):
        super().__init__('plain')
        self.declare_parameter('answer', 1)
        self.publisher = self.create_publisher(Log, 'out', 1)


class Open(Node):
    def __init__(self, **options):
        super().__init__('open', **options)
        self.get_logger().debug('open is there')


class Needy(Node):
    def __init__(self, robot):
        super().__init__('needy')


kept = []


class Broken(Node):
    def __init__(self):
        super().__init__('broken')
        kept.append(self)  # nothing but its end takes it away
        self.create_publisher(Log, 'broken_out', 1)
        raise ValueError('there is no lens')


class Leaving(Node):
    def __init__(self):
        super().__init__('leaving')
        raise SystemExit('there is no licence')


class Stubborn(Node):
    def __init__(self):
        super().__init__('stubborn')

    def destroy_node(self):
        raise OSError('the camera does not let go')


class Waiting(Node):
    begun, may_go_on = threading.Event(), threading.Event()

    def __init__(self, **options):
        self.begun.set()
        self.may_go_on.wait(30)
        super().__init__('waiting', **options)


class Slow(Node):
    def __init__(self, **options):
        time.sleep(1.5)
        super().__init__('slow', **options)


number = 5
