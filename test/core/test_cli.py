"""The `kpfeat` command, as a user sees it: help, mistakes, interruptions."""

import os
from pathlib import Path
import subprocess
import sys

import kpfeat_core
import pytest
from run_kpfeat import assert_one_error, run

ROOT = Path(kpfeat_core.__file__).parents[1]
VERBS = ('extract', 'match', 'train', 'demo', 'weights list', 'weights import', 'weights verify')


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help_with_examples(verb):
    result = run(*verb.split(), '--help')
    assert result.exit_code == 0
    assert 'Examples' in result.output
    assert f'kpfeat {verb}' in result.output


@pytest.mark.parametrize(
    'given, waits', [({}, 'PASSIVE'), ({'OMP_WAIT_POLICY': 'ACTIVE'}, 'ACTIVE')]
)
def test_help_needs_no_torch_and_lets_waiting_threads_sleep_unless_told_otherwise(given, waits):
    code = (
        'import os, sys\nfrom kpfeat_core.cli import main\ntry:\n    main()\nexcept SystemExit:\n'
        '    print({"torch", "numpy"} & set(sys.modules), os.environ["OMP_WAIT_POLICY"])'
    )
    words = [sys.executable, '-c', code, 'train', '--help']
    rest = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=rest | given)
    assert done.stdout.splitlines()[-1] == f'set() {given.get("OMP_WAIT_POLICY", "PASSIVE")}'


@pytest.mark.unchecked  # contexts of newer typers are of another class
def test_demo_hands_its_arguments_and_exit_code_on_and_says_what_to_do_without_ros(monkeypatch):
    monkeypatch.setattr('kpfeat_core.cli.find_spec', lambda name: None)
    assert_one_error(run('demo'), 'rclpy', 'make demo')
    seen = []
    module = type(sys)('kpfeat_ros.demo')
    module.main = lambda words: seen.extend(words) or 4
    monkeypatch.setattr('kpfeat_core.cli.find_spec', lambda name: name)
    monkeypatch.setitem(sys.modules, 'kpfeat_ros.demo', module)
    assert run('demo', '--images', 'drive/', '--rate', '5').exit_code == 4
    assert seen == ['--images', 'drive/', '--rate', '5']


@pytest.mark.parametrize(
    'error, code',
    [
        (KeyboardInterrupt(), 130),
        (OSError('disk is full'), 2),
        (MemoryError(), 2),
        (ZeroDivisionError(), None),
    ],
)
def test_what_interrupts_a_command_ends_it_without_a_traceback_and_our_mistakes_show(
    monkeypatch, photos, weights, tmp_path, error, code
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr('kpfeat_core.image.read_image', fail)
    result = run('extract', photos, '-w', weights, '--out', tmp_path / 'out')
    if code is None:
        assert isinstance(result.exception, ZeroDivisionError)
        return
    assert result.exit_code == code
    assert 'Traceback' not in result.output


def test_the_module_runs_as_a_program(photos, weights, tmp_path):
    words = ['extract', photos / 'a.png', photos / 'no.png', '-w', weights, '-o', tmp_path]
    command = [sys.executable, '-m', 'kpfeat_core.cli', *map(str, words)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.count('\n') == 1 and result.stderr.startswith('error: ')


def test_version_is_shown_and_every_public_name_exists():
    assert run('--version').stdout == f'kpfeat {kpfeat_core.__version__}\n'
    assert all(getattr(kpfeat_core, name) is not None for name in kpfeat_core.__all__)
