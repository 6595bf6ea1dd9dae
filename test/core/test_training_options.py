"""Options of training runs are told apart by name, and training needs few packages."""

from collections import Counter
from dataclasses import fields
import subprocess
import sys
import textwrap

import cv2
from kpfeat_core.training import recipe_class, RECIPES
from kpfeat_core.training.recipe import COMMON_CLASSES
import numpy as np
import pytest


@pytest.mark.parametrize('model', RECIPES)
def test_no_option_has_two_meanings(model) -> None:
    classes = (*COMMON_CLASSES, recipe_class(model).loss_class)
    names = Counter(record.name for cls in classes for record in fields(cls))
    assert [name for name, count in names.items() if count > 1] == []


def test_training_imports_nothing_that_it_can_do_without(tmp_path) -> None:
    """Torch, NumPy, OpenCV, Lightning Fabric and what the command itself needs are enough."""
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    rng = np.random.default_rng(0)
    (tmp_path / 'photos').mkdir()
    for i in range(6):
        image = cv2.resize(rng.integers(0, 255, (8, 10, 3), np.uint8), (96, 80))
        cv2.imwrite(str(tmp_path / f'photos/{i}.png'), image)
    script = textwrap.dedent("""
        import sys

        ABSENT = {'kornia', 'scipy', 'yaml', 'matplotlib', 'torchvision', 'PIL', 'h5py', 'pandas',
                  'skimage', 'sklearn', 'tensorboard', 'onnx', 'onnxruntime', 'jaxtyping'}

        class Without:
            def __init__(self, finder):
                self.finder = finder

            def __getattr__(self, name):
                return getattr(self.finder, name)

            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] not in ABSENT:
                    return self.finder.find_spec(name, path, target)

        sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
        from kpfeat_core.training import recipe_class, RECIPES, train
        [recipe_class(model) for model in RECIPES]
        train('alike-t', 'photos', 'run', steps=1, batch_size=1, view_size=64, bank_side=96,
              validation_share=0.3, validation_pairs=1, detected=10, random=10, device='cpu',
              threads=1)
        print(len(RECIPES), ABSENT & set(sys.modules))
    """)
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f'{len(RECIPES)} set()'
    assert (tmp_path / 'run/alike-t.safetensors').is_file()
