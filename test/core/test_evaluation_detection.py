"""Metrics of detectors on points whose truth can be checked by hand."""

import math

from kpfeat_core.evaluation import metrics
import pytest
import torch

TRUTH = torch.tensor([[10.0, 10.0], [30.0, 10.0], [50.0, 40.0], [70.0, 40.0]])
NONE = torch.zeros(0, 2)


def scores(*values):
    return torch.tensor(values)


def test_perfect_detections_are_fully_precise_and_have_no_error():
    found = metrics.detection_quality([(TRUTH, scores(0.9, 0.8, 0.7, 0.6), TRUTH)])
    assert found == (1.0, 0.0)


@pytest.mark.parametrize(
    ('found', 'confidence', 'truth', 'right'),
    [
        # within the radius and up to it
        (TRUTH + torch.tensor([[2, 0], [0, -2.01], [1.5, 1.5], [1.4, 1.4]]), (0.9, 0.8, 0.7, 0.6),
         TRUTH, [1, 0, 0, 1]),
        # a keypoint can be found only once, and the best score finds it
        (torch.tensor([[10.0, 11], [10, 10], [9, 10]]), (0.3, 0.2, 0.9), TRUTH, [0, 0, 1]),
        # a second detection may find a second keypoint nearby
        (torch.tensor([[10.9, 10], [10.8, 10], [10.7, 10]]), (0.9, 0.8, 0.7),
         torch.tensor([[10.0, 10], [12, 10]]), [1, 1, 0]),
    ],
)  # fmt: skip
def test_a_detection_is_right_near_a_keypoint_that_none_of_a_better_score_has_found(
    found, confidence, truth, right
):
    assert metrics.true_detections(found, scores(*confidence), truth).tolist() == right


@pytest.mark.parametrize(
    ('right', 'count', 'area'),
    [
        # hit, miss, hit, miss, miss, hit of 4: precision 1, 2/3, 1/2 at recall 1/4, 2/4, 3/4
        ((1, 0, 1, 0, 0, 1), 4, (1 + 2 / 3 + 1 / 2) / 4),
        ((0, 1, 1), 2, 2 / 3),  # precision 0, 1/2, 2/3 that rises later: 2/3 at both hits
    ],
)
def test_average_precision_is_the_area_under_the_monotone_curve(right, count, area):
    ranked = torch.linspace(0.9, 0.4, len(right))
    value = metrics.average_precision(torch.tensor(right).bool(), ranked, count)
    assert value == pytest.approx(area)


def test_order_of_the_input_does_not_matter():
    torch.manual_seed(0)
    found, confidence = TRUTH.repeat(3, 1) + torch.randn(12, 2), torch.rand(12)
    order = torch.randperm(12)
    first = metrics.detection_quality([(found, confidence, TRUTH)])
    second = metrics.detection_quality([(found[order], confidence[order], TRUTH)])
    assert first == pytest.approx(second) and 0 < first.average_precision < 1


def test_detections_of_all_images_are_ranked_together():
    sure_and_wrong = (torch.tensor([[200.0, 200.0]]), scores(0.95), NONE)
    unsure_and_right = (TRUTH[:1], scores(0.6), TRUTH[:1])
    assert metrics.detection_quality([sure_and_wrong, unsure_and_right]).average_precision == 0.5
    wrong_but_unsure = (sure_and_wrong[0], scores(0.5), NONE)
    assert metrics.detection_quality([wrong_but_unsure, unsure_and_right]).average_precision == 1


def test_localization_counts_confident_detections_near_the_truth_only():
    found = TRUTH + torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.5], [3.0, 0.0]])
    distances = metrics.localization_distances(found, scores(0.9, 0.51, 0.5, 0.9), TRUTH)
    assert distances.tolist() == [1, 2]
    quality = metrics.detection_quality([(found, scores(0.9, 0.51, 0.5, 0.9), TRUTH)])
    assert quality.localization_px == 1.5


def test_more_noise_is_less_precise():
    torch.manual_seed(0)
    noise = torch.randn(4, 2)
    confidence = scores(0.9, 0.8, 0.7, 0.6)
    found = [
        metrics.detection_quality([(TRUTH + sigma * noise, confidence, TRUTH)])
        for sigma in (0.1, 0.5, 20.0)
    ]
    assert found[0].localization_px < found[1].localization_px
    assert found[0].average_precision == 1 > found[2].average_precision


def test_nothing_found_is_no_precision_and_nothing_to_find_is_none_at_all():
    nothing = (NONE, scores(), TRUTH)
    assert metrics.detection_quality([nothing]).average_precision == 0
    assert math.isnan(metrics.detection_quality([nothing]).localization_px)
    noise = (TRUTH, scores(0.9, 0.8, 0.7, 0.6), NONE)
    assert all(map(math.isnan, metrics.detection_quality([noise])))
    assert all(map(math.isnan, metrics.detection_quality([])))
