"""The linters of ament, with their own settings: those that pip has are run here."""

from configparser import ConfigParser
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ('benchmarks', 'kpfeat_core', 'kpfeat_ros', 'launch', 'scripts', 'test', 'training')
# What ament_pep257 leaves out.
UNCHECKED = (
    'D100', 'D101', 'D102', 'D103', 'D104', 'D105', 'D106', 'D107', 'D203', 'D212', 'D404',
)  # fmt: skip
PLUGINS = {'flake8-builtins', 'flake8-comprehensions', 'flake8-import-order', 'flake8-quotes'}


def settings() -> dict[str, str]:
    parser = ConfigParser()
    parser.read(ROOT / '.flake8')
    return dict(parser['flake8'])


def test_the_settings_are_those_of_ament_flake8() -> None:
    assert settings()['max-line-length'] == '99'
    assert settings()['import-order-style'] == 'google'
    assert 'inline-quotes' not in settings(), 'single quotes are what the plugin wants by itself'


@pytest.mark.slow
def test_flake8_finds_nothing() -> None:
    flake8 = [sys.executable, '-m', 'flake8']
    version = subprocess.run([*flake8, '--version'], capture_output=True, text=True, check=False)
    missing = {name for name in PLUGINS if name not in version.stdout.replace('_', '-')}
    if missing:
        pytest.skip(f'not installed: {", ".join(sorted(missing))}; requirements/dev.txt has them')
    done = subprocess.run(
        [*flake8, '--config', '.flake8', '--no-show-source', '--jobs', '1', *FOLDERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ('', '')


@pytest.mark.slow
def test_docstrings_are_as_ament_pep257_wants_them() -> None:
    pydocstyle = pytest.importorskip('pydocstyle', reason='pydocstyle is not installed')
    files = [str(path) for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
    assert [str(error) for error in pydocstyle.check(files, ignore=UNCHECKED)] == []
