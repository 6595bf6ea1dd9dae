"""Recordings on Ray: the same bytes as one after the other, whatever dies on the way."""

from importlib.util import find_spec
import json
import os
from pathlib import Path
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
if find_spec('ray') is None:  # importing it here would be too early
    pytest.skip('a cluster needs Ray', allow_module_level=True)

from bag_runs import contents
from kpfeat_core.bags import batch as work
from kpfeat_core.bags import cluster
from kpfeat_core.bags.batch import extract_batch, InTurn
from kpfeat_core.bags.cluster import OnRay
from kpfeat_core.bags.manifest import ManifestEntry
from kpfeat_core.bags.recording import find_bag_files
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.errors import ConfigError, DataError
from made_bags import images, PERIOD, START, write_bag, write_split_bag
from run_kpfeat import run

COUNT = 60  # images of the part whose worker is killed


@pytest.fixture(scope='module')
def local_ray():
    """Have one Ray for all tests of this file."""
    with OnRay(slots=2) as runner:
        yield runner


@pytest.fixture(scope='module')
def fleet(tmp_path_factory):
    """Write a recording of two parts, a short one, and a file that is none."""
    folder = tmp_path_factory.mktemp('fleet')
    second = images(4, start=START + COUNT * PERIOD)
    write_split_bag(folder / 'drive', [images(COUNT), second])
    write_bag(folder / 'short', images(2))
    (folder / 'broken.bag').write_bytes(b'#ROSBAG V2.0\n nothing')
    return folder


@pytest.fixture
def extract(fleet, weights, tmp_path):
    def extract(out, runner, cpus=1.0):
        wanted = ExtractRequest(
            fleet, tmp_path / out, weights=str(weights), options={'max_num_keypoints': 30}
        )
        return extract_batch(wanted, find_bag_files([fleet], wanted.out), runner, cpus)

    return extract


def kill_worker(partial, killed):
    """Kill the process that writes an output, once some images are done."""
    log = partial / 'done.jsonl'
    while not killed.is_set():
        if log.is_file() and log.stat().st_size > 300:
            for process in Path('/proc').iterdir():
                if process.name.isdigit() and opened(process, log):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.set()
                    return
        time.sleep(0.005)


def opened(process, path):
    try:
        return any(file.resolve() == path for file in (process / 'fd').iterdir())
    except OSError:
        return False


def test_a_killed_worker_changes_neither_outputs_nor_manifest(
    extract, local_ray, tmp_path, capsys
):
    in_turn = extract('in_turn', InTurn())
    killed = threading.Event()
    partial = tmp_path / 'on_ray/drive/.drive_0.mcap.partial'
    killer = threading.Thread(target=kill_worker, args=(partial, killed))
    killer.start()
    on_ray = extract('on_ray', OnRay())
    assert killed.is_set()
    killer.join()
    assert contents(tmp_path / 'on_ray') == contents(tmp_path / 'in_turn')
    assert on_ray.entries == in_turn.entries
    assert list(on_ray.failed) == ['broken/broken'] and on_ray.done == 3
    assert capsys.readouterr().out == ''


def test_a_second_run_does_only_what_is_missing(extract, local_ray, tmp_path):
    extract('out', InTurn())
    before = contents(tmp_path / 'out')
    (tmp_path / 'out/drive/drive_1.mcap').unlink()
    report = extract('out', OnRay())
    assert list(report.seconds) == ['drive/drive_1']
    assert contents(tmp_path / 'out') == before


def test_the_command_works_on_ray(fleet, weights, local_ray, tmp_path):
    words = ('--out', tmp_path / 'out', '--weights', weights, '--max-keypoints', 5, '--json')
    result = run('bag', 'extract', fleet / 'drive', '--stride', 20, *words, '--cluster')
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)['images'] == 4
    assert (tmp_path / 'out/drive/drive_1.mcap').is_file()
    result = run('bag', 'extract', fleet / 'drive', '--stride', 20, *words, '--by-part')
    assert json.loads(result.stdout)['done_before'] == 2


def test_a_worker_whose_gpu_broke_makes_room_for_another(monkeypatch):
    entry = ManifestEntry(
        {}, '', error='AcceleratorError: CUDA error: an illegal memory access (a.py:1)'
    )
    monkeypatch.setattr(work, 'work', lambda *words: work.Result(None, entry))
    left = []
    monkeypatch.setattr(os, '_exit', left.append)
    cluster._work(None, None, None)
    assert left == [1]


def test_a_task_that_this_machine_never_has_room_for_is_said(extract, local_ray, tmp_path):
    with pytest.raises(ConfigError, match='a task takes 64 CPUs and 0 GPUs, but there are 2'):
        extract('out', OnRay(), cpus=64)
    assert not (tmp_path / 'out').exists()


def test_a_ray_of_its_own_keeps_to_this_machine(local_ray):
    import ray

    assert {node['NodeManagerAddress'] for node in ray.nodes()} == {'127.0.0.1'}


@pytest.mark.parametrize('name', ['cuda:1', 'mps'])
def test_a_device_by_number_is_refused(name):
    with pytest.raises(ConfigError, match='Ray chooses'):
        OnRay().device(name)


def test_auto_is_the_gpu_of_any_machine():
    runner = OnRay()
    assert runner.device('auto') == 'cpu'
    runner.machines = [{'CPU': 4.0}, {'CPU': 4.0, 'GPU': 1.0}]
    assert runner.device('auto') == 'cuda'


def test_an_address_where_no_ray_is_is_said(monkeypatch):
    def refuse(**options):
        raise ConnectionError('nobody answers')

    ray = SimpleNamespace(is_initialized=lambda: False, init=refuse)
    monkeypatch.setattr(cluster, '_ray', lambda own: ray)
    with pytest.raises(DataError, match="no Ray at 'auto': nobody answers"):
        OnRay('auto').__enter__()


def test_an_address_where_nobody_answers_is_said_at_once():
    with socket.socket() as nobody:
        nobody.bind(('127.0.0.1', 0))
        port = nobody.getsockname()[1]
        with pytest.raises(DataError, match=f"no Ray at '127.0.0.1:{port}': .*refused"):
            cluster._check_answer(f'127.0.0.1:{port}')
        nobody.listen()
        for address in (f'127.0.0.1:{port}', f'ray://127.0.0.1:{port}', 'auto', ''):
            cluster._check_answer(address)
