"""Pictures of a run show keypoints and matches where they are, in their colors."""

from kpfeat_core.data.labelled import LabelledImages
from kpfeat_core.data.patch_pairs import PatchBatch
from kpfeat_core.data.view_pairs import PairBatch
from kpfeat_core.models.keynet import HardNet
from kpfeat_core.registry import build_extractor
from kpfeat_core.training.keynet import HardNetRecipe
from kpfeat_core.training.runtime import StepWatch
from kpfeat_core.training.validation import draw_labelled, draw_matched_pairs
from kpfeat_core.visualize import CORRECT, WRONG
import numpy as np
import pytest
import torch


def count(picture, color):
    return int((picture == np.array(color)).all(-1).sum())


def flat_pairs(shift=0.0):
    torch.manual_seed(0)
    views = torch.rand(1, 2, 3, 64, 64).repeat(2, 1, 1, 1, 1)
    homographies = torch.eye(3).repeat(2, 1, 1)
    homographies[:, 0, 2] = shift
    return PairBatch(views, homographies, torch.ones(2, 2, 64, 64, dtype=torch.bool))


def test_matches_of_equal_views_are_green_and_against_a_false_truth_red() -> None:
    extractor = build_extractor('alike-t').eval()
    right = draw_matched_pairs(extractor, flat_pairs(), max_num_keypoints=20)
    wrong = draw_matched_pairs(extractor, flat_pairs(shift=20.0), max_num_keypoints=20)
    assert count(right, CORRECT) > 50
    assert count(right, WRONG) == 0
    assert count(wrong, WRONG) > 50


def test_labels_are_circles_and_detections_dots_at_their_enlarged_pixels() -> None:
    images = torch.zeros(1, 1, 40, 40)
    keypoints = torch.tensor([[[30.0, 10.0]]])
    ones = torch.ones(1, 40, 40, dtype=torch.bool)
    batch = LabelledImages(images, keypoints, torch.ones(1, 1, dtype=torch.bool), ones)
    picture = draw_labelled(batch, [torch.tensor([[5.0, 20.0]])])
    zoom = 10
    red = np.argwhere((picture == np.array(WRONG)).all(-1)).mean(0)
    green = np.argwhere((picture == np.array(CORRECT)).all(-1)).mean(0)
    assert red == pytest.approx([20.5 * zoom - 0.5, 5.5 * zoom - 0.5], abs=0.6)
    assert green == pytest.approx([10.5 * zoom - 0.5, 30.5 * zoom - 0.5], abs=0.6)


def test_patches_matched_wrongly_have_a_red_frame_and_right_ones_a_green_one() -> None:
    torch.manual_seed(0)
    patches = torch.rand(1, 6, 1, 32, 32).repeat(2, 1, 1, 1, 1)
    patches[1, :2] = patches[1, :2].flip(0)  # the first two are mistaken for each other
    batch = PatchBatch(
        patches,
        torch.zeros(6, dtype=torch.long),
        torch.arange(12.0).view(6, 2) * 50,
        torch.ones(6),
    )
    picture = HardNetRecipe.examples(HardNet().eval(), batch)
    frame = 36 * 36 - 32 * 32
    assert count(picture, WRONG) == 2 * frame
    assert count(picture, CORRECT) == 4 * frame


def test_the_watch_leaves_out_what_is_paused_and_tells_the_share_of_data(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    watch = StepWatch(torch.device('cpu'))
    for _ in range(4):
        with watch.step(exact=False):
            now[0] += 1
            watch.data_is_ready()
            now[0] += 3
        with watch.paused():
            now[0] += 100
    assert watch.report(batch_size=8) == {'examples_per_second': 2.0, 'data_share': 0.25}
