"""`kpfeat bench`: rows, marks of random weights, failures."""

import json
from pathlib import Path
import subprocess
import sys

import kpfeat_core
from kpfeat_core.benchmarking import run as benchmark
from kpfeat_core.benchmarking import systems
from kpfeat_core.registry import build_extractor
import pytest
from run_kpfeat import run as run_kpfeat

ROOT = Path(kpfeat_core.__file__).parents[1]
TINY = ('--size', '128x96', '--max-keypoints', 50, '--rounds', 2, '--warm-up', 1, '--threads', 1)
HERE = {'commit', 'command', 'machine', 'load_average', 'torch', 'opencv', 'kpfeat', 'python'}


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
    """Run the command once, on a model with weights, one without, and OpenCV's."""
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
            assert 0 < row['forward_gmac'] <= row['extract_gmac']
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


def test_a_system_that_fails_has_a_row_that_says_why_and_exit_code_3(
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


def test_nothing_measured_is_an_error(no_memory, monkeypatch):
    kind = type(build_extractor('alike-t'))
    monkeypatch.setattr(kind, 'detect', lambda self, maps: 1 / 0)
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
    result = bench('orb', *TINY, '--batch', 1, '--out', '-')
    assert [json.loads(line)['model'] for line in result.stdout.splitlines()] == ['orb']
    assert 'peak MB' in result.stderr


def test_the_table_shows_the_parameters_of_tiny_networks(no_memory):
    result = bench('keynet-tiny', *TINY, '--batch', 1, '--set', 'descriptor=sift')
    assert result.exit_code == 0, result.output
    assert ' 0.000279 ' in result.stdout


def test_a_profile_has_stages_and_operators(no_memory, tmp_path):
    out = tmp_path / 'rows.jsonl'
    result = bench('alike-t', 'orb', *TINY, '--batch', 2, '--profile', tmp_path, '--out', out)
    assert result.exit_code == 0, result.output
    text = (tmp_path / 'alike-t_batch2.txt').read_text()
    assert 'alike-t, bundled weights, 128x96, batch 2' in text
    assert 'aten::' in text and 'Self CPU' in text
    network, opencv = lines(out)
    assert set(network['stages_ms']) == {'forward', 'detect', 'describe', 'rest'}
    assert min(network['stages_ms'].values()) > 0 and opencv['stages_ms'] is None
    assert 'describe' in result.stdout and not (tmp_path / 'orb_batch2.txt').exists()


@pytest.mark.unchecked  # the checks cannot be compiled
@pytest.mark.parametrize(('backend', 'code'), [('eager', 0), ('no-such-backend', 3)])
def test_compiling_is_timed_apart_and_its_failure_is_reported(no_memory, tmp_path, backend, code):
    out = tmp_path / 'rows.jsonl'
    words = ('alike-t', 'orb', *TINY, '-b', 1, '--compile', '--compile-backend', backend)
    result = bench(*words, '--out', out)
    assert result.exit_code == code, result.output
    network, opencv = lines(out)
    assert (network['compile'], opencv['compile']) == (backend, None)
    assert opencv['error'] == '' and opencv['compile_s'] is None
    if code:
        assert 'no-such-backend' in network['error']
    else:
        assert 1e3 * network['compile_s'] > network['ms_median']
        assert network['peak_mb'] is None and 'no peak memory' in network['note']


def test_half_precision_is_measured(no_memory, tmp_path):
    out = tmp_path / 'rows.jsonl'
    words = ('alike-t', 'sift', *TINY, '--batch', 1, '--precision', 'bfloat16')
    assert bench(*words, '--out', out).exit_code == 0
    assert [row['precision'] for row in lines(out)] == ['bfloat16', None]


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


def test_help_has_examples_and_needs_no_torch():
    code = (
        'import sys\nfrom kpfeat_core.cli import main\n'
        'try:\n    main()\nexcept SystemExit:\n    print("torch" in sys.modules)'
    )
    words = [sys.executable, '-c', code, 'bench', '--help']
    shown = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert 'Examples' in shown and 'kpfeat bench' in shown
    assert shown.splitlines()[-1] == 'False'
