"""Where reference data is found, for the tests that compare with it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def shared() -> Path:
    """Return the folder of reference data, or skip in words."""
    folder = Path(os.environ.get('KPFEAT_SHARED', ROOT.parent / 'shared'))
    if not folder.is_dir():
        pytest.skip(f'no reference data at {folder}; set KPFEAT_SHARED to its folder')
    return folder


@pytest.fixture(scope='session')
def reference(shared: Path) -> Path:
    """Return the folder of published checkpoints and golden outputs."""
    return shared / 'reference'


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the checker of annotations would refuse before our own code can."""
    if config.getoption('jaxtyping_packages', None):
        for item in items:
            if item.get_closest_marker('unchecked'):
                item.add_marker(pytest.mark.skip(reason='annotations are checked'))
