"""Networks that nodes of one process share: loaded once, freed with the last."""

from dataclasses import replace
import gc
import os
import subprocess
import sys
import weakref

from kpfeat_core.registry import extractor_config_class
from kpfeat_core.weights.files import save_weights
from kpfeat_ros.model import load_extractor
from kpfeat_ros.options import ModelOptions
import pytest
import torch


@pytest.fixture
def load(weights_file):
    """Load as nodes do; gives the extractor."""
    given = ModelOptions(weights=weights_file, device='cpu', warm_up_size='64x64')

    def loaded(**changes):
        config = extractor_config_class('alike-t')(**changes.pop('config', {}))
        return load_extractor(replace(given, **changes), config)

    gc.collect()  # what other tests left
    return loaded


def parameter(extractor) -> torch.Tensor:
    return next(extractor.parameters())


def test_nodes_with_the_same_model_share_its_network_and_keep_their_own_options(load) -> None:
    few, many = load(config={'max_num_keypoints': 5}), load(config={'max_num_keypoints': 50})
    assert parameter(few) is parameter(many)
    assert (few.config.max_num_keypoints, many.config.max_num_keypoints) == (5, 50)


def test_network_goes_with_the_last_that_uses_it(load) -> None:
    first, second = load(), load()
    derived = second.with_options(nms_radius=4)  # as a changed parameter does
    network = weakref.ref(parameter(first))
    del first, second
    gc.collect()
    assert parameter(load()) is parameter(derived) is network()
    del derived
    gc.collect()
    assert network() is None


def test_weights_that_were_written_again_are_loaded_again(load, tmp_path) -> None:
    path = tmp_path / 'own.safetensors'
    save_weights(load(), path)
    before = load(weights=str(path))
    with torch.no_grad():
        parameter(before).add_(1)
    save_weights(before, path)
    after = load(weights=str(path))
    assert parameter(after) is not parameter(before)
    assert torch.equal(parameter(after), parameter(before))


def test_options_that_cannot_change_live_have_networks_of_their_own(load) -> None:
    assert parameter(load()) is not parameter(load(config={'upstream_borders': True}))


def test_loading_leaves_no_threads_behind_that_wait_for_work(weights_file) -> None:
    code = f"""
import os
import time
from kpfeat_core.registry import extractor_config_class
from kpfeat_ros.model import load_extractor
from kpfeat_ros.options import ModelOptions

options = ModelOptions(weights={weights_file!r}, device='cpu', warm_up_size='640x480')
before = len(os.listdir('/proc/self/task'))
load_extractor(options, extractor_config_class('alike-t')())
end = time.monotonic() + 10
while len(os.listdir('/proc/self/task')) > before and time.monotonic() < end:
    time.sleep(0.01)  # they end a moment later
print(len(os.listdir('/proc/self/task')) - before)
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'OMP_NUM_THREADS': '2'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) <= 0
