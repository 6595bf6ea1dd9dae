"""Training runs of a few steps on tiny pictures, and what they wrote."""

from contextlib import contextmanager
import csv

import cv2
import numpy as np
import pytest

SMALL = {
    'view_size': 64, 'batch_size': 2, 'detected': 20, 'random': 20, 'bank_side': 128,
    'validation_share': 0.4, 'validation_pairs': 2, 'validate_every': 3, 'log_every': 1,
    'threads': 1, 'device': 'cpu', 'warmup_steps': 2, 'seed': 5,
}  # fmt: skip


def write_photographs(folder, count=8):
    """Write pictures of coarse noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 255, (16, 20, 3), np.uint8)
        image = cv2.resize(coarse, (160, 128), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


def run(photographs, out, **options):
    """Train alike-t for a few steps."""
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    from kpfeat_core.training import train

    return train('alike-t', photographs, out, **SMALL | options)


def rows(path):
    """Read a CSV file."""
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def steps(path):
    """Read the steps that a CSV file tells of."""
    return [int(row['step']) for row in rows(path)]


@contextmanager
def killed_at(step, saved=True):
    """End runs before a step, as a kill would, right after a checkpoint or without one."""
    from kpfeat_core.training import engine

    original = engine._Run._train_step

    def killed(self, source):
        if self.step == step:
            if saved:
                self.checkpoint()
            raise KeyboardInterrupt
        return original(self, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._Run, '_train_step', killed)
        yield
