"""Key.Net's objective: one step after the other, on views of one drawing."""

from kpfeat_core.benchmarking.systems import load_pictures
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.keynet import KeyNetLossConfig, KeyNetRecipe
import pytest
import torch
from torch import nn

SIDE = 96
SHIFT = (7, -5)  # in x and y, from view 0 to view 1


@pytest.fixture
def pairs() -> PairBatch:
    picture = torch.from_numpy(load_pictures('', (128, 128))[0]).permute(2, 0, 1) / 255
    views = [picture[:, y : y + SIDE, x : x + SIDE] for x, y in ((16, 16), (9, 21))]
    H_0to1 = torch.tensor([[[1.0, 0, SHIFT[0]], [0, 1, SHIFT[1]], [0, 0, 1]]])
    images = torch.stack(views)[:, None]
    return PairBatch(images, H_0to1, torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool))


@pytest.fixture
def recipe() -> KeyNetRecipe:
    torch.manual_seed(0)
    extractor = build_extractor('keynet', **KeyNetRecipe.build_options)
    return KeyNetRecipe(extractor, KeyNetLossConfig()).train()


def test_homographies_take_the_first_view_to_the_second(recipe) -> None:
    recipe.extractor.detector = nn.Flatten(0, 1)  # gray values are scores
    images = torch.zeros(2, 1, 3, SIDE, SIDE)
    for x, y in ((20, 30), (51, 24), (70, 60), (30, 72)):
        images[0, 0, :, y, x] = images[1, 0, :, y + SHIFT[1], x + SHIFT[0]] = 1.0
    seen = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    H_0to1 = torch.tensor([[[1.0, 0, SHIFT[0]], [0, 1, SHIFT[1]], [0, 0, 1]]])
    right, wrong = (
        float(recipe(PairBatch(images, H, seen), torch.Generator())['total'])
        for H in (H_0to1, torch.linalg.inv(H_0to1))
    )
    assert right < 1e-2 * wrong


def test_steps_lower_the_loss_and_each_reaches_every_weight(recipe, pairs) -> None:
    optimizer = torch.optim.Adam(recipe.parameters(), 3e-3)
    totals = []
    for _ in range(12):
        total = recipe(pairs, torch.Generator())['total']
        optimizer.zero_grad()
        total.backward()
        assert all(p.grad is not None and p.grad.any() for p in recipe.parameters())
        optimizer.step()
        totals.append(float(total.detach()))
    assert min(totals[-3:]) < 0.9 * totals[0]
