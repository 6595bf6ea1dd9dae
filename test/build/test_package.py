"""What a user gets: versions that agree, and packages that bring their data."""

from pathlib import Path
import subprocess
import sys
from xml.etree import ElementTree
import zipfile

import kpfeat_core
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ('assets', 'weights')  # folders of kpfeat_core with more than Python in them


def tracked(folder: str) -> set[str]:
    """Return the files of a folder that belong to the repository."""
    done = subprocess.run(
        ['git', 'ls-files', folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip('this is no git checkout, so what belongs to it is unknown')
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_ros_and_python_give_the_same_version() -> None:
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert package.findtext('version') == kpfeat_core.__version__


def test_the_changelog_opens_with_what_is_forthcoming_or_with_this_version() -> None:
    lines = (ROOT / 'CHANGELOG.rst').read_text().splitlines()
    title = next(a for a, b in zip(lines[3:], lines[4:], strict=False) if set(b) == {'-'})
    assert title == 'Forthcoming' or title.startswith(kpfeat_core.__version__)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of the files in the wheel that pip would install."""
    pytest.importorskip('setuptools', minversion='77', reason='setuptools 77 builds the wheel')
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    for name in sorted(tracked('.')):  # as it stands here, committed or not
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--quiet']
    subprocess.run([*pip, '--wheel-dir', str(folder), str(source)], check=True)
    (path,) = folder.glob('kpfeat-*.whl')
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_brings_every_module_and_all_data(wheel) -> None:
    modules = {n for p in ('kpfeat_core', 'kpfeat_ros') for n in tracked(p) if n.endswith('.py')}
    data = {name for folder in DATA for name in tracked(f'kpfeat_core/{folder}')}
    assert data, 'the bundled photograph at least'
    assert sorted((modules | data) - wheel) == []


def test_the_wheel_brings_nothing_else(wheel) -> None:
    tops = {name.split('/')[0] for name in wheel}
    assert tops == {'kpfeat_core', 'kpfeat_ros', f'kpfeat-{kpfeat_core.__version__}.dist-info'}


def test_the_wheel_says_its_licence(wheel) -> None:
    names = {Path(name).name for name in wheel if 'dist-info' in name}
    assert {'LICENSE', 'THIRD_PARTY.md', 'entry_points.txt'} <= names
