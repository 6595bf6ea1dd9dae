"""What the numbers of `kpfeat bench` mean: times, memory, operations, pictures."""

import os
import sys

from kpfeat_core.benchmarking import memory, stages, systems, timing
from kpfeat_core.benchmarking.config import parse_size
from kpfeat_core.benchmarking.pictures import load_pictures
from kpfeat_core.errors import ConfigError, ImageError, KpfeatError
from kpfeat_core.image import write_image
from kpfeat_core.provenance import command, commit
from kpfeat_core.registry import build_extractor
from made_bench import SMALL, spec
import numpy as np
import pytest
import torch


def test_systems_take_turns_after_rounds_that_do_not_count():
    order, now = [], iter(range(100))

    def call(name):
        return lambda: order.append(name)

    turns = timing.Turns({'a': call('a'), 'b': call('b')}, clock=lambda: next(now) ** 2 / 1e3)
    turns.run(rounds=2, warm_up=1)
    assert order == ['a', 'b'] * 3
    # the clock's readings are 0, 1, 4, 9, 16, ... ms; each call spans two of them
    assert turns.first_ms == pytest.approx({'a': 1, 'b': 5})
    assert turns.times_ms == {'a': pytest.approx([9, 17]), 'b': pytest.approx([13, 21])}


def test_a_call_that_fails_leaves_and_the_others_go_on():
    calls = []

    def broken():
        raise RuntimeError('first line\nsecond line')

    turns = timing.Turns({'broken': broken, 'fine': lambda: calls.append(1)})
    turns.run(rounds=3, warm_up=1)
    assert turns.failures == {'broken': 'RuntimeError: first line'}
    assert len(calls) == 4 and len(turns.times_ms['fine']) == 3


def test_watching_stages_changes_nothing_and_reaches_copies_with_other_options():
    network = systems.build_system(spec('alike-t', multi_scale=True)).network
    picture = load_pictures('', (160, 128))[0]
    expected, kind, seen = network.extract(picture), type(network), []

    class Note:
        def __init__(self, stage):
            seen.append(stage)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    with stages.watched(network, Note):
        found = network.extract(picture)
        fewer = network.with_options(max_num_keypoints=7, multi_scale=False).extract(picture)
    assert torch.equal(found.keypoints, expected.keypoints)
    assert fewer.keypoints.shape[1] == 7
    assert type(network) is kind and seen[-3:] == ['forward', 'detect', 'describe']


def test_operations_are_those_that_really_happen():
    network = build_extractor('alike-t')
    picture = load_pictures('', (64, 64))
    forward, whole = stages.count_macs(systems.System(spec('alike-t'), network.eval()), picture[0])
    # 3x3 convolutions of the four blocks at 64, 32, 8 and 2 pixels a side, with 1x1 shortcuts
    blocks = [(64, 3, 8, 0), (32, 8, 16, 1), (8, 16, 32, 1), (2, 32, 64, 1)]
    expected = sum(
        side**2 * (9 * (inputs + outputs) * outputs + skip * inputs * outputs)
        for side, inputs, outputs, skip in blocks
    )
    # then the 1x1 layers to 16 channels of each level, and their shares of the score
    expected += sum(side**2 * (c * 16 + 16) for side, _, c, _ in blocks)
    assert forward == expected < whole


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with timing.limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_pictures_differ_and_are_the_same_every_time(tmp_path):
    first, again = load_pictures('', (128, 96), 3), load_pictures('', (128, 96), 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (96, 128, 3) and not np.array_equal(first[0], first[1])
    write_image(tmp_path / 'photo.png', load_pictures('', (200, 200))[0])
    photos = load_pictures(tmp_path / 'photo.png', (64, 48), 2)
    assert photos[0].shape == (48, 64, 3)
    assert np.array_equal(photos[1], np.roll(photos[0], 32, axis=1))
    with pytest.raises(ImageError):
        load_pictures(tmp_path / 'none.png', (64, 48))


def test_peak_memory_grows_with_what_a_call_needs(monkeypatch):
    seen = []

    class Hungry:
        def __init__(self, megabytes):
            self.megabytes = megabytes

        def inputs(self, pictures):
            return pictures

        def run(self, inputs):
            seen.append(np.ones(self.megabytes << 17).sum())

    for megabytes in (40, 120):
        monkeypatch.setattr(memory, 'build_system', lambda _, size=megabytes: Hungry(size))
        growth, whole = memory._measure_here(spec('orb'), SMALL, 1)
        assert 0.8 * megabytes < growth / 2**20 < megabytes + 40
        assert whole > growth


def test_memory_that_loading_has_freed_does_not_hide_what_a_call_needs(monkeypatch):
    class Reusing:
        def inputs(self, pictures):
            np.ones(31 << 17)  # from here on malloc keeps up to 62 MiB that are free
            return pictures if [np.ones(28 << 17) for _ in range(2)] else None

        def run(self, inputs):
            np.ones(40 << 17)

    monkeypatch.setattr(memory, 'build_system', lambda _: Reusing())
    growth, _ = memory._measure_here(spec('orb'), SMALL, 1)
    assert growth > 0.8 * 40 * 2**20


def test_a_process_that_fails_says_why():
    with pytest.raises(KpfeatError, match='no model'):
        memory.peak_process_bytes(spec('surf'), SMALL, 1)


def test_sizes_are_width_and_height():
    assert parse_size('640x480') == (640, 480)
    with pytest.raises(ConfigError):
        parse_size('640*480')


def test_results_name_their_commit_and_no_folders(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/kpfeat', 'bench', '--out', '/home/me/a.jsonl'])
    assert command('kpfeat') == 'kpfeat bench --out a.jsonl'
    assert commit() == 'unknown' or len(commit().rstrip('+')) == 12
    assert os.sep not in command('kpfeat')
