"""Training runs of a few steps on tiny pictures, and what they wrote."""

from contextlib import contextmanager
import csv

import cv2
import numpy as np
import pytest
import torch

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


def train_small(model, folder, out, **options):
    """Train a model with these options and what makes all runs of tests small."""
    pytest.importorskip('lightning_fabric', reason='training needs Lightning Fabric')
    from kpfeat_core.training import train

    shared = {'validation_share': 0.4, 'log_every': 1, 'threads': 1, 'device': 'cpu'}
    return train(model, folder, out, **shared | options)


def run(photographs, out, **options):
    """Train alike-t for a few steps."""
    return train_small('alike-t', photographs, out, **SMALL | options)


def fit(recipe, batch, steps, rate, draw_anew=False):
    """Train on one batch, with one seed or with a new one a step; return the log of each step."""
    optimizer = torch.optim.Adam(recipe.parameters(), rate)
    log = []
    for step in range(steps):
        parts = recipe(batch, torch.Generator().manual_seed(step if draw_anew else 0))
        optimizer.zero_grad()
        parts['total'].backward()
        optimizer.step()
        log.append({name: float(value.detach()) for name, value in parts.items()})
    return log


def settle(recipe, batch):
    """Set the statistics of a trained network to those of a batch, exactly; they lag behind."""
    for layer in recipe.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean of what comes
    with torch.no_grad():
        recipe(batch, torch.Generator().manual_seed(0))


def descend(loss, start, rate, steps, relative=False):
    """Step against the gradient of a loss of a tensor; return its values, the first included."""
    values, free = [], start
    for _ in range(steps):
        free = free.detach().requires_grad_()
        value = loss(free)
        (gradient,) = torch.autograd.grad(value, free)
        free = free - rate * gradient / (gradient.abs().max() if relative else 1)
        values.append(value.item())
    return values


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


def smooth_pictures(count, side, grain):
    """Draw random pictures (B, 3, side, side) whose blots are some pixels wide."""
    from kpfeat_core.image import resize

    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(count, 3, side // grain, side // grain, generator=generator)
    return resize(noise, (side, side))


def write_pictures(folder, pictures):
    """Write pictures (B, 3, H, W) into a folder."""
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).mul(255).byte().numpy()):
        cv2.imwrite(str(folder / f'{i}.png'), picture)
    return folder


def seen_twice(first, homography):
    """Return pairs of square pictures and of the same under a homography (1, 3, 3)."""
    from kpfeat_core.data.view_pairs import PairBatch
    from kpfeat_core.geometry import warp_image

    H, size = homography.expand(len(first), -1, -1), first.shape[-2:]
    second = warp_image(first, H, size)
    seen = warp_image(torch.ones_like(first[:, :1]), H, size)[:, 0] > 0.99
    return PairBatch(torch.stack([first, second]), H, torch.stack([torch.ones_like(seen), seen]))
