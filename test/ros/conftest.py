"""Real nodes over real DDS, on a domain of their own; skipped in words where rclpy is missing."""

from collections.abc import Callable, Iterator
from functools import partial
import gc
import importlib.util
import os
from pathlib import Path
import shutil
import signal
import sys
from typing import Any

import numpy as np
import pytest
from ros_domain import claim_domain
import ros_forks
from ros_forks import Forked, ForkServer
from ros_harness import Ros
from steered import Held, Steered

SUPPORT = Path(__file__).resolve().parents[1] / 'support'

# In the background of a shell and under nohup SIGINT is ignored, and children inherit that: the
# processes that tests start must hear it as those of a user in a terminal do.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before rclpy starts: other robots, and other test runs on this machine, must not hear us.
CLAIM, DOMAIN = claim_domain()
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ['ROS_LOCALHOST_ONLY'] = '1'  # its name for the same


def why_no_ros() -> str:
    """Return what is missing for tests with nodes; '' if nothing."""
    if importlib.util.find_spec('rclpy') is None:
        return 'rclpy is not installed: `make test` installs it'
    if importlib.util.find_spec('kpfeat') is None:
        return 'the messages of kpfeat are not compiled: `make test` does it'
    return ''


@pytest.fixture(scope='session')
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file with weights of alike-t that nobody trained, the same in every run."""
    from kpfeat_core.registry import build_extractor
    from kpfeat_core.weights.files import save_weights
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'alike-t.safetensors'
    save_weights(build_extractor('alike-t').eval(), path)
    return str(path)


@pytest.fixture(scope='session')
def photo() -> np.ndarray:
    """Return a small picture (96, 128, 3) RGB with plenty to detect."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.kron(noise, np.ones((8, 8, 1), np.uint8))


@pytest.fixture(scope='session')
def ros_context() -> Iterator[None]:
    """Start ROS once for all tests."""
    reason = why_no_ros()
    if reason:
        pytest.skip(reason)
    from kpfeat_ros import extractor_node, matcher_node, node, overlay_node  # noqa: F401
    import rclpy

    node.DIAGNOSTICS_PERIOD_S = 0.1
    rclpy.init(args=[])
    gc.collect()
    gc.freeze()  # nodes collect garbage when they end: what is imported for good is passed over
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope='session')
def forks(ros_context: None) -> Iterator[Callable[..., Forked]]:
    """Give what starts programs of ours in processes, at once."""
    server = ForkServer()
    yield ros_forks.start
    server.close()


@pytest.fixture
def ros(ros_context: None, weights_file: str) -> Iterator[Ros]:
    """Give nodes of their own to one test."""
    harness = Ros(weights_file)
    yield harness
    harness.close()


@pytest.fixture
def steered(ros: Ros) -> Callable[..., Steered]:
    """Give extractors that wait to be told."""
    return partial(Steered, ros)


@pytest.fixture
def hold() -> Iterator[Callable[[Any], Held]]:
    """Let the network of a node wait until it is released, or until the end of the test."""
    held: list[Held] = []

    def holding(node: Any) -> Held:
        held.append(Held(node))
        return held[-1]

    yield holding
    for each in held:
        each.release()


@pytest.fixture
def start(ros: Ros) -> Callable[..., tuple[Any, Any, list]]:
    """Start an extractor that somebody listens to; gives node, camera and features."""
    from kpfeat.msg import Features
    from kpfeat_ros.extractor_node import ExtractorNode
    from sensor_msgs.msg import CompressedImage

    def started(*arguments: str, **parameters: Any) -> tuple[Any, Any, list]:
        node = ros.start(ExtractorNode, *arguments, **parameters)
        features = ros.listen(Features, 'features')
        ros.until(node.streams[''].wanted, 'a listener')
        image = node.resolve_topic_name('image')
        if parameters.get('image_transport') == 'compressed':
            return node, ros.camera(f'{image}/compressed', CompressedImage), features
        return node, ros.camera(image), features

    return started


@pytest.fixture(scope='module')
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the Python package of somebody else, with an entry point."""
    folder = tmp_path_factory.mktemp('others')
    shutil.copy(SUPPORT / 'others_nodes.py', folder)
    (folder / 'others_lacking.py').write_text('import no_such_module\n')
    info = folder / 'others-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: others\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        '[rclpy_components]\nothers::Open = others_nodes:Open\n'
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def waiting(others: Path) -> Iterator[type]:
    """Give the class of nodes that are not made before the test lets them."""
    from others_nodes import Waiting

    for event in (Waiting.begun, Waiting.may_go_on):
        event.clear()
    yield Waiting
    Waiting.may_go_on.set()


@pytest.fixture
def manager(ros: Ros, others: Path) -> Iterator[Any]:
    """Give the manager of a container that loads nodes into this process."""
    from kpfeat_ros.components import ComponentManager

    manager = ComponentManager(ros.probe)
    yield manager
    manager.close()


@pytest.fixture(scope='session')
def repository() -> Path:
    """Return the root of the source tree."""
    return Path(__file__).resolve().parents[2]
