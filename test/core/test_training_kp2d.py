"""KP2D's objective: the published values, and that it learns."""

from fill import fill
from kpfeat_core.config import make_config
from kpfeat_core.geometry import pixel_grid, sample, warp_points
from kpfeat_core.models.kp2d import Kp2d, Kp2dConfig
from kpfeat_core.training.kp2d import Kp2dLossConfig, Kp2dRecipe
import numpy as np
import pytest
import torch

HEIGHT, WIDTH = 240, 320
PUBLISHED = {'rejection_points': 'lowest', 'score_border_px': 0.0}


@pytest.fixture(scope='module')
def golden(reference):
    return np.load(reference / 'golden/kp2d_fill.npz')


@pytest.fixture(scope='module')
def parts(reference, golden) -> dict[str, float]:
    """Return the parts of the loss with the fixed weights, in training without dropout."""
    names = ('image_synth_240x320', 'image_synth8_240x320')
    images = [np.load(reference / f'golden/{name}.npz')['rgb'] for name in names]
    targets = torch.stack([torch.from_numpy(i).permute(2, 0, 1) / 255 for i in images])
    to_unit = torch.tensor([[2 / (WIDTH - 1), 0, -1], [0, 2 / (HEIGHT - 1), -1], [0, 0, 1]])
    H_0to1 = torch.linalg.inv(to_unit) @ torch.from_numpy(golden['loss_H']).float() @ to_unit
    places = warp_points(pixel_grid(HEIGHT, WIDTH).expand(2, -1, -1), H_0to1)
    sources = sample(targets, places).mT.reshape(targets.shape)

    torch.manual_seed(0)
    extractor = Kp2d(Kp2dConfig(upstream_sampling=True))
    recipe = Kp2dRecipe(extractor, make_config(Kp2dLossConfig, PUBLISHED))
    fill(extractor)
    fill(recipe.io_net)
    recipe.train()
    extractor.dropout.p = 0.0
    valid = torch.ones(2, 2, HEIGHT, WIDTH, dtype=torch.bool)
    with torch.no_grad():
        maps = [recipe.see(views) for views in (sources, targets)]  # statistics of each alone
        return {k: float(v) for k, v in recipe.compare(*maps, H_0to1, valid).items()}


def test_detection_losses_are_the_published_ones(golden, parts) -> None:
    found = parts['localization'] + parts['usefulness'] + parts['consistency']
    assert found == pytest.approx(float(golden['loss_det']), rel=1e-5)


def test_the_triplet_loss_and_the_recall_are_the_published_ones(golden, parts) -> None:
    difference = float(golden['loss_v2'] - golden['loss_det'])
    assert 2 * parts['triplet'] == pytest.approx(difference, rel=1e-4)
    assert parts['recall'] == pytest.approx(float(golden['recall_v4']), rel=1e-6)


def test_the_loss_of_every_version_is_the_published_one(golden, parts) -> None:
    detection = parts['localization'] + parts['usefulness'] + parts['consistency']
    without_io_net = detection + 2 * parts['triplet']
    assert without_io_net == pytest.approx(float(golden['loss_v2']), rel=1e-5)
    assert parts['total'] == pytest.approx(float(golden['loss_v4']), rel=1e-4)
    without_triplets = detection + parts['rejection']
    assert without_triplets == pytest.approx(float(golden['loss_v3']), rel=1e-4)
