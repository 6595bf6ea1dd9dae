"""Shapes and types in annotations hold while the other tests run."""

from pathlib import Path
import subprocess
import sys

import pytest

HERE = Path(__file__).resolve().parent
# All of test/core passes so; these are quick and go through most annotations with axes.
FILES = ('test_features', 'test_geometry', 'test_keypoints', 'test_matching', 'test_extractors')


def test_shapes_in_annotations_are_those_of_the_tensors() -> None:
    for module in ('jaxtyping', 'beartype'):
        pytest.importorskip(module, reason=f'checking annotations needs {module}')
    options = ['-q', '-p', 'no:cacheprovider', '--jaxtyping-packages=kpfeat_core,typecheck.check']
    files = [str(HERE / f'{name}.py') for name in FILES]
    command = [sys.executable, '-m', 'pytest', *options, *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-4000:]
