"""`kpfeat bench`: systems, rows, failures, and what its numbers mean."""

import json
from pathlib import Path

import kpfeat_core
from kpfeat_core.benchmarking import BenchmarkConfig, systems
from kpfeat_core.benchmarking import run as benchmark
from kpfeat_core.benchmarking.systems import load_pictures
from kpfeat_core.errors import ImageError, KpfeatError
from kpfeat_core.evaluation.sources import available_baselines
from kpfeat_core.image import write_image
from kpfeat_core.registry import build_extractor, extractor_names
from kpfeat_core.weights.files import save_weights
import numpy as np
import pytest
from run_kpfeat import run as run_kpfeat
import torch

ROOT = Path(kpfeat_core.__file__).parents[1]
TINY = ('--size', '128x96', '--max-keypoints', 50, '--rounds', 2, '--warm-up', 1, '--threads', 1)
HERE = {'commit', 'command', 'machine', 'load_average', 'torch', 'opencv', 'kpfeat', 'python'}
SMALL = BenchmarkConfig(size='128x96', max_num_keypoints=50, rounds=2, warm_up=1, threads=1)


def spec(name, **options):
    return systems.SystemSpec(name, options={'max_num_keypoints': 50, **options})


def bench(*words):
    return run_kpfeat('bench', *words)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def no_memory(monkeypatch):
    """Leave out the processes that measure memory; they take seconds each."""
    monkeypatch.setattr(benchmark, 'peak_process_bytes', lambda *_: (1_000_000, 2_000_000))


@pytest.fixture(scope='module')
def tiny_run(tmp_path_factory):
    """Run the command once, on models with and without weights, and OpenCV's."""
    folder = tmp_path_factory.mktemp('bench')
    words = ('alike-t', 'magicpoint', 'orb', 'sift', *TINY, '--batch', 1, '--batch', 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, 'peak_process_bytes', lambda *_: (1_000_000, 2_000_000))
        result = bench(*words, '--out', folder / 'new/rows.jsonl')
    assert result.exit_code == 0, result.output
    return result, lines(folder / 'new/rows.jsonl')


def test_there_is_one_row_for_each_system_and_batch(tiny_run):
    _, rows = tiny_run
    names = ['alike-t', 'magicpoint', 'orb', 'sift']
    assert [(row['batch'], row['model']) for row in rows] == [
        (b, n) for b in (1, 2) for n in names
    ]
    assert len({frozenset(row) for row in rows}) == 1, 'every row has the same fields'
    assert all(row.keys() >= HERE and row['benchmark'] == 'speed' for row in rows)
    assert all(row['size'] == '128x96' and row['threads'] == 1 for row in rows)


def test_times_are_of_one_picture_and_spread_around_the_median(tiny_run):
    _, rows = tiny_run
    for row in rows:
        assert 0 < row['ms_p10'] <= row['ms_median'] <= row['ms_p90']
        assert row['fps'] == pytest.approx(1000 / row['ms_median'], rel=1e-2)
        assert row['rounds'] == 2
    for batch in (1, 2):
        ms = {row['model']: row for row in rows if row['batch'] == batch}
        share = ms['alike-t']['ms_median'] / ms['sift']['ms_median']
        assert ms['alike-t']['time_over_sift'] == pytest.approx(share, abs=2e-3)
        assert ms['sift']['time_over_sift'] == 1


def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path):
    out = tmp_path / 'rows.jsonl'
    bench('alike-t', 'orb', *TINY, '--batch', 1, '--out', out)
    network, opencv = lines(out)
    assert 0 < opencv['peak_mb'] < network['peak_mb'] < network['process_mb']


def test_networks_have_parameters_and_operations_and_opencv_has_none(tiny_run):
    _, rows = tiny_run
    for row in rows:
        if row['model'] not in ('orb', 'sift'):
            expected = sum(p.numel() for p in build_extractor(row['model']).parameters())
            assert row['parameters'] == expected
            assert row['extract_gmac'] > 0
            assert row['precision'] == 'float32'
        else:
            assert row['parameters'] is row['extract_gmac'] is row['precision'] is None


def test_random_weights_are_marked_and_still_find_all_the_keypoints(tiny_run):
    result, rows = tiny_run
    words = {row['model']: row['weights'] for row in rows}
    assert words == {'alike-t': 'bundled', 'magicpoint': 'random', 'orb': '', 'sift': ''}
    assert all(row['keypoints'] == 50 for row in rows if row['model'] == 'magicpoint')
    shown = [line.split()[:2] for line in result.stdout.splitlines()]
    assert shown.count(['magicpoint', 'random']) == 2 and ['alike-t', 'bundled'] in shown


def test_too_few_keypoints_of_random_weights_are_told(no_memory, monkeypatch, tmp_path):
    out = tmp_path / 'rows.jsonl'
    few = ('--set', 'remove_borders=40', '--set', 'nms_radius=20', '--max-keypoints', 50)
    result = bench('magicpoint', *TINY, *few, '--batch', 1, '--out', out)
    (row,) = lines(out)
    assert 0 < row['keypoints'] < 50
    assert row['note'] == f'its random weights find {row["keypoints"]:.0f} of 50 keypoints'
    assert f'magicpoint: {row["note"]}' in result.stdout


def test_a_system_that_fails_has_a_row_that_says_why_and_nothing_measured_is_an_error(
    no_memory, tmp_path, monkeypatch
):
    kind = type(build_extractor('alike-t'))
    monkeypatch.setattr(kind, 'detect', lambda self, maps: 1 / 0)
    out = tmp_path / 'rows.jsonl'
    result = bench('alike-t', 'orb', *TINY, '--batch', 1, '--out', out)
    assert result.exit_code == 3
    failed, fine = lines(out)
    assert failed['error'] == 'ZeroDivisionError: division by zero'
    assert failed['ms_median'] is None and fine['ms_median'] > 0 and fine['error'] == ''
    assert 'alike-t: ZeroDivisionError' in result.stdout and 'failed: alike-t' in result.stderr
    result = bench('alike-t', *TINY, '--batch', 1)
    assert result.exit_code == 2
    assert 'error: nothing could be measured: alike-t: ZeroDivisionError' in result.stderr


def test_an_interruption_keeps_what_was_timed(no_memory, tmp_path, monkeypatch):
    calls = []
    inner = systems.System.run

    def run(self, inputs):
        calls.append(self.spec.name)
        if calls.count('orb') == 3:  # one to warm up, one that counts
            raise KeyboardInterrupt
        return inner(self, inputs)

    monkeypatch.setattr(systems.System, 'run', run)
    out = tmp_path / 'rows.jsonl'
    result = bench('sift', 'orb', *TINY, '--batch', 1, '--out', out)
    assert result.exit_code == 130
    assert [(row['model'], row['rounds']) for row in lines(out)] == [('sift', 2), ('orb', 1)]
    assert 'orb' in result.stdout


def test_json_lines_go_to_stdout_and_the_table_to_stderr(no_memory):
    words = ('keynet-tiny', 'sift', '--set', 'descriptor=sift', '--precision', 'bfloat16')
    result = bench(*words, *TINY, '--batch', 1, '--out', '-')
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row['precision'] for row in rows] == ['bfloat16', None]
    assert 'peak MB' in result.stderr
    assert ' 0.000279 ' in result.stderr  # the parameters of a tiny network


def test_help_has_examples():
    assert 'kpfeat bench alike-t alike-n sift orb' in bench('--help').output


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['surf'], "there is no model 'surf'; expected one of alike-l"),
        (['orb', '--size', '640'], "size is '640', expected WIDTHxHEIGHT"),
        (['orb', '--size', '640x16'], "size is '640x16'"),
        (['orb', '--precision', 'int8'], 'expected one of float32, float16, bfloat16'),
        (['orb', '--threads', '0'], 'threads is 0'),
        (['orb', '--device', 'tpu'], "device is 'tpu'"),
        (['orb', '--image', 'missing.jpg'], "there is no file 'missing.jpg'"),
        (['orb', '--weights', 'alike-t'], 'expected MODEL=FILE'),
        (['orb', '--weights', 'alike-t=x'], "given for 'alike-t', which is none of those"),
        (['alike-t', '--weights', 'alike-t=x'], "there is no weight file 'x'"),
        (['alike-t', 'orb', '--set', 'deform=a'], "none of alike-t, orb has the option 'deform'"),
        (['alike-t', '--set', 'nms_radius=-3'], 'nms_radius is -3'),
        (['orb', '--out', str(ROOT)], 'which is a folder'),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(words, text):
    result = bench(*words)
    assert result.exit_code == 2
    shown = [line for line in result.stderr.splitlines() if line]
    assert len(shown) == 1 and shown[0].startswith('error: ') and text in shown[0], shown


def test_every_registered_extractor_is_measured_where_none_is_named():
    specs = systems.choose_systems([], 10)
    assert [s.name for s in specs] == [*extractor_names(), *available_baselines()]


def test_a_weight_file_is_named_and_a_missing_companion_makes_random_ones(tmp_path, monkeypatch):
    save_weights(build_extractor('alike-t'), tmp_path / 'mine.safetensors')
    words = [f'alike-t={tmp_path}/mine.safetensors']
    (chosen,) = systems.choose_systems(['alike-t'], 10, words)
    assert systems.build_system(chosen).weights == 'mine.safetensors'
    submodule = (torch.nn.Conv2d(1, 1, 1), '')
    kind = type(build_extractor('alike-t'))
    monkeypatch.setattr(kind, 'submodules', lambda self: {'describer': submodule})
    system = systems.build_system(spec('alike-t'))
    assert (system.weights, system.note) == ('random', 'no weights for describer')


def test_an_option_goes_to_the_systems_that_have_it():
    words = ['upstream_borders=true', 'nms_radius=3']
    first, second = systems.choose_systems(['alike-t', 'orb'], 10, settings=words)
    assert first.options == {
        'max_num_keypoints': 10, 'upstream_borders': True, 'nms_radius': 3,
    }  # fmt: skip
    assert second.options == {'max_num_keypoints': 10}


def test_systems_take_turns_after_rounds_that_do_not_count():
    order, now = [], iter(range(100))

    def call(name):
        return lambda: order.append(name)

    turns = benchmark.Turns({'a': call('a'), 'b': call('b')}, clock=lambda: next(now) ** 2 / 1e3)
    turns.run(rounds=2, warm_up=1)
    assert order == ['a', 'b'] * 3
    # the clock's readings are 0, 1, 4, 9, 16, ... ms; each call spans two of them
    assert turns.times_ms == {'a': pytest.approx([9, 17]), 'b': pytest.approx([13, 21])}


def test_a_call_that_fails_leaves_and_the_others_go_on():
    calls = []

    def broken():
        raise RuntimeError('first line\nsecond line')

    turns = benchmark.Turns({'broken': broken, 'fine': lambda: calls.append(1)})
    turns.run(rounds=3, warm_up=1)
    assert turns.failures == {'broken': 'RuntimeError: first line'}
    assert len(calls) == 4 and len(turns.times_ms['fine']) == 3


def test_operations_are_those_that_really_happen():
    network = build_extractor('alike-t')
    picture = load_pictures('', (64, 64))
    system = systems.System(spec('alike-t', max_num_keypoints=1), network.eval())
    whole = benchmark.count_macs(system, system.inputs(picture))
    # 3x3 convolutions of the four blocks at 64, 32, 8 and 2 pixels a side, with 1x1 shortcuts
    blocks = [(64, 3, 8, 0), (32, 8, 16, 1), (8, 16, 32, 1), (2, 32, 64, 1)]
    expected = sum(
        side**2 * (9 * (inputs + outputs) * outputs + skip * inputs * outputs)
        for side, inputs, outputs, skip in blocks
    )
    # then the 1x1 layers to 16 channels of each level, and their shares of the score
    expected += sum(side**2 * (c * 16 + 16) for side, _, c, _ in blocks)
    assert expected < whole < 1.5 * expected  # descriptors of the keypoints come on top


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with benchmark.limited_threads(before + 1):
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
        monkeypatch.setattr(benchmark, 'build_system', lambda _, size=megabytes: Hungry(size))
        growth, whole = benchmark._measure_here(spec('orb'), SMALL, 1)
        assert 0.8 * megabytes < growth / 2**20 < megabytes + 40
        assert whole > growth


def test_memory_that_loading_has_freed_does_not_hide_what_a_call_needs(monkeypatch):
    class Reusing:
        def inputs(self, pictures):
            np.ones(31 << 17)  # from here on malloc keeps up to 62 MiB that are free
            return pictures if [np.ones(28 << 17) for _ in range(2)] else None

        def run(self, inputs):
            np.ones(40 << 17)

    monkeypatch.setattr(benchmark, 'build_system', lambda _: Reusing())
    growth, _ = benchmark._measure_here(spec('orb'), SMALL, 1)
    assert growth > 0.8 * 40 * 2**20


def test_a_process_that_fails_says_why(tmp_path, monkeypatch):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho Traceback >&2\necho no memory left >&2\nexit $CODE\n')
    python.chmod(0o755)
    monkeypatch.setattr(benchmark.sys, 'executable', str(python))
    monkeypatch.setenv('CODE', '1')
    with pytest.raises(KpfeatError, match='^no memory left$'):
        benchmark.peak_process_bytes(spec('orb'), SMALL, 1)
