"""The objective and the validation on a network that knows where everything is."""

from dataclasses import replace

from kpfeat_core.config import make_config
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.geometry import pixel_grid
from kpfeat_core.models.alike import Alike, AlikeConfig
from kpfeat_core.models.base import DenseMaps
from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
from kpfeat_core.training.validation import validate
import pytest
import torch
import torch.nn.functional as F

SIDE = 96
SHIFT = torch.tensor([11.0, -6.0])  # from view 0 to view 1
H_0TO1 = torch.tensor([[[1.0, 0, 11], [0, 1, -6], [0, 0, 1]]])
SPOTS = [(20, 30), (50, 20), (70, 60), (35, 75), (60, 44), (24, 52)]  # pixels of view 0


class Oracle(Alike):
    """Red is the score, green and blue the place in the scene, of which descriptors are made."""

    def __init__(self):
        super().__init__('alike-t', AlikeConfig())
        self.descriptor_dim = 4

    def forward(self, image):
        return DenseMaps(image[:, 0], (image,))

    def describe_pixels(self, maps, pixels):
        x, y = pixels.long().unbind(-1)
        place = maps.descriptor_maps[0][torch.arange(len(x))[:, None], 1:, y, x]
        angle = torch.pi * place  # unique within half a turn
        return F.normalize(torch.cat([angle.cos(), angle.sin()], -1), dim=-1)


def view(shift: torch.Tensor) -> torch.Tensor:
    """Render the scene moved by a shift: sharp spots, and the place of every pixel."""
    scene = pixel_grid(SIDE, SIDE) - shift
    spots = torch.tensor(SPOTS, dtype=torch.float32)
    red = (-(scene[:, None] - spots).square().sum(-1)).exp().amax(1)
    place = (scene + 32) / 160
    return torch.cat([red[:, None], place], 1).T.view(3, SIDE, SIDE)


@pytest.fixture
def pairs() -> PairBatch:
    images = torch.stack([view(torch.zeros(2)), view(SHIFT)])[:, None]
    return PairBatch(images, H_0TO1, torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool))


def parts_of(pairs: PairBatch, **options) -> dict[str, float]:
    options = {'detected': 6, 'random': 40, 'stride': 1, 'temperature': 1e-3} | options
    recipe = AlikeRecipe(Oracle(), make_config(AlikeLossConfig, options))
    parts = recipe(pairs, torch.Generator().manual_seed(0))
    return {name: float(value.detach()) for name, value in parts.items()}


def backwards(pairs: PairBatch) -> PairBatch:
    return replace(pairs, H_0to1=torch.linalg.inv(pairs.H_0to1))


def test_a_network_that_is_right_has_hardly_any_loss_and_a_wrong_homography_shows(pairs) -> None:
    right, wrong = parts_of(pairs), parts_of(backwards(pairs))
    assert right['reprojection'] < 1e-3
    assert right['reliability'] < 0.01
    assert right['nre'] + 5 < wrong['nre']


def test_covisible_is_the_share_of_points_that_the_other_view_shows(pairs) -> None:
    assert parts_of(pairs, detected=1, random=4000)['covisible'] == pytest.approx(
        (1 - 11 / 95) * (1 - 6 / 95), abs=0.02
    )


def test_what_lies_outside_the_photograph_changes_nothing(pairs) -> None:
    valid = pairs.valid.clone()
    valid[1, :, :, 60:] = False
    masked = replace(pairs, valid=valid)
    images = pairs.images.clone()
    images[1, :, 1:, :, 64:] = images[1, :, 1:, :, 20:52]  # what is seen, a second time
    assert parts_of(replace(masked, images=images)) == pytest.approx(parts_of(masked))
    assert parts_of(replace(pairs, images=images))['nre'] > parts_of(pairs)['nre'] + 0.1


def test_points_that_fall_on_what_is_not_photograph_are_neither_right_nor_outside(pairs) -> None:
    here = replace(pairs, images=pairs.images[:1].repeat(2, 1, 1, 1, 1), H_0to1=torch.eye(3)[None])
    valid = pairs.valid.clone()
    valid[1, :, :, 10:] = False  # all spots lie farther right
    parts = parts_of(replace(here, valid=valid), random=0, temperature=0.1)
    assert parts['nre'] == parts['reliability'] == parts['covisible'] == 0


def test_validation_gives_full_marks_to_the_truth_and_none_to_its_inverse(pairs) -> None:
    oracle = Oracle()
    right, wrong = validate(oracle, pairs, 6), validate(oracle, backwards(pairs), 6)
    assert (right['mma1'], right['mma3'], right['matches'], right['correct']) == (1, 1, 6, 6)
    assert right['repeatability'] == 1
    assert wrong['mma3'] == wrong['correct'] == 0
