"""Score maps become keypoints."""

from kpfeat_core.geometry import bilinear_neighbors, flat_index
from kpfeat_core.keypoints import (
    best_first,
    clear_borders,
    gather_windows,
    keep_first,
    Keypoints,
    max_filter,
    refine_soft_argmax,
    select_best,
    suppress_greedily,
    suppress_non_maxima,
)
import numpy as np
import pytest
import torch


def greedy(score_map: torch.Tensor, radius: int) -> set[tuple[int, int]]:
    """Non-maximum suppression by a loop: best first, suppress its window."""
    left = score_map.numpy().copy()
    kept = set()
    while left.max() > 0:
        y, x = divmod(int(left.argmax()), left.shape[1])  # the first of equal ones
        kept.add((x, y))
        left[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = 0
    return kept


def places(kept: torch.Tensor) -> set[tuple[int, int]]:
    """Return the (x, y) of all pixels above zero of one map."""
    rows, columns = torch.nonzero(kept, as_tuple=True)
    return set(zip(columns.tolist(), rows.tolist(), strict=True))


def test_keypoints_are_xy_and_pixel_centres_are_integers() -> None:
    score_map = torch.zeros(1, 6, 9)
    score_map[0, 2, 7] = 1.0  # row y = 2, column x = 7
    xy, scores, mask = select_best(score_map, 0.0, 3)
    assert xy[mask].tolist() == [[7, 2]]
    assert scores[mask].tolist() == [1.0]


def test_suppression_with_enough_rounds_is_greedy_suppression() -> None:
    torch.manual_seed(0)
    score_map = torch.rand(1, 24, 31)
    kept = suppress_non_maxima(score_map, 2, rounds=20)
    assert places(kept[0]) == greedy(score_map[0], 2)
    assert torch.equal(suppress_non_maxima(score_map, 0), score_map)


@pytest.mark.parametrize('radius', [0, 1, 4, 9])
@pytest.mark.parametrize('levels', [3, 20, 1 << 20])  # few levels: most scores are equal
def test_exact_suppression_is_a_loop_from_the_best_on(radius: int, levels: int) -> None:
    random = np.random.default_rng(0)
    score_map = torch.from_numpy(random.integers(0, levels, (2, 24, 31)) / levels)
    kept = suppress_greedily(score_map, radius, 0.1)
    for one, other in zip(score_map, kept, strict=True):
        assert places(other) == greedy(torch.where(one > 0.1, one, 0.0), radius)
        assert torch.equal(other[other > 0], one[other > 0])


def test_exact_suppression_follows_a_chain_to_its_end_and_keeps_nothing_of_nothing() -> None:
    ramp = torch.arange(1.0, 101).view(1, 1, 100)  # each pixel is suppressed by the next
    kept = suppress_greedily(ramp, 4)[0, 0].nonzero().squeeze(1)
    assert kept.tolist() == list(range(4, 100, 5))
    assert not suppress_greedily(torch.zeros(2, 5, 7), 3).any()
    assert not suppress_greedily(torch.full((1, 5, 7), 0.5), 3, threshold=0.5).any()


@pytest.mark.parametrize('radius', [1, 2, 3, 4, 9])
def test_running_maxima_equal_max_pooling(radius: int) -> None:
    maps = torch.randn(2, 7, 12)
    pooled = torch.nn.functional.max_pool2d(maps, 2 * radius + 1, 1, radius)
    assert torch.equal(max_filter(maps, radius), pooled)
    marks = maps > 1
    pooled = torch.nn.functional.max_pool2d(marks.float(), 2 * radius + 1, 1, radius) > 0
    assert torch.equal(max_filter(marks, radius), pooled)


def test_best_come_first_and_padding_last_in_a_batch_of_different_counts() -> None:
    score_map = torch.zeros(2, 4, 4)
    score_map[0, 1, 1], score_map[0, 2, 3] = 0.3, 0.9
    score_map[1, 0, 2] = 0.5
    xy, scores, mask = select_best(score_map, 0.1, -1)
    assert xy[0].tolist() == [[3, 2], [1, 1]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert scores[1, 1] == 0


def test_keypoints_are_put_in_order_with_all_that_belongs_to_them_and_padding_last() -> None:
    scores = torch.tensor([[0.2, 0.9, 0.0, 0.5]])
    keypoints = torch.tensor([[[1.0, 2], [3, 4], [0, 0], [5, 6]]])
    mask = torch.tensor([[True, True, False, True]])
    found = best_first(Keypoints(keypoints, scores, mask, 10 * scores))
    assert found.keypoints[0].tolist() == [[3, 4], [5, 6], [1, 2], [0, 0]]
    assert found.mask.tolist() == [[True, True, True, False]]
    assert torch.equal(found.dispersity, 10 * found.keypoint_scores)
    assert best_first(Keypoints(keypoints, -scores, mask)).mask[0, 3].item() is False


def test_the_first_of_the_kept_keypoints_stay_in_their_order() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.0, 0.0]])
    every = Keypoints(scores[..., None].expand(-1, -1, 2), scores, scores > 0)
    kept = torch.tensor([[False, True, True, True], [False, True, True, True]])
    found = keep_first(every, kept, 2)
    assert found.mask.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(found.keypoint_scores[0], torch.tensor([0.8, 0.7]))
    torch.testing.assert_close(found.keypoints[1, 0], torch.tensor([0.4, 0.4]))
    assert keep_first(every, kept, -1).mask.sum(1).tolist() == [3, 1]
    assert keep_first(every, torch.zeros_like(kept), 2).keypoints.shape == (2, 0, 2)


def test_scores_at_or_below_the_threshold_and_borders_are_dropped_even_if_that_is_all() -> None:
    score_map = torch.tensor([[[0.25, 0.5], [0.75, 0.0]]])
    assert select_best(score_map, 0.5, -1)[1].tolist() == [[0.75]]
    xy, scores, mask = select_best(torch.zeros(2, 4, 4), 0.0, 10)
    assert xy.shape == (2, 0, 2) and mask.shape == (2, 0)
    assert clear_borders(torch.ones(1, 6, 8), 2, 1)[0].sum() == 3 * 5
    assert clear_borders(torch.ones(1, 6, 8), 4, 4).sum() == 0


def test_gathered_windows_equal_an_unfolded_image() -> None:
    score_map = torch.rand(2, 7, 9)
    xy = torch.tensor([[[0, 0], [8, 6]], [[4, 3], [0, 6]]])
    unfolded = torch.nn.functional.unfold(score_map[:, None], 5, padding=2).view(2, 25, 7, 9)
    windows = gather_windows(score_map, xy, 2)
    for b in range(2):
        for n in range(2):
            x, y = xy[b, n]
            assert torch.equal(windows[b, n], unfolded[b, :, y, x])


def test_refinement_finds_the_centre_of_a_blob_between_pixels() -> None:
    y, x = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing='ij')
    score_map = (-((x - 7.3) ** 2 + (y - 6.8) ** 2) / 4).exp()[None]
    keypoints, dispersity = refine_soft_argmax(score_map, torch.tensor([[[7, 7]]]))
    assert (keypoints[0, 0] - torch.tensor([7.3, 6.8])).abs().max() < 0.1
    assert refine_soft_argmax(score_map**8, torch.tensor([[[7, 7]]]))[1] < dispersity


@pytest.mark.parametrize('height', [0.9, 0.01])
@pytest.mark.parametrize('sigma', [0.7, 1.0, 1.5])
def test_refinement_of_logarithms_moves_weak_and_strong_peaks_alike(height, sigma) -> None:
    y, x = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing='ij')
    blob = height * (-((x - 7.3) ** 2 + (y - 6.8) ** 2) / (2 * sigma**2)).exp()[None]
    peak = torch.tensor([[[7, 7]]])
    keypoints, _ = refine_soft_argmax(blob, peak, temperature=0.5, logarithmic=True)
    assert (keypoints[0, 0] - torch.tensor([7.3, 6.8])).abs().max() < 0.1


def test_refinement_stays_in_the_image_and_passes_gradients_to_the_score_map() -> None:
    corner = torch.zeros(1, 6, 6)
    corner[0, 0, 0] = 1e-4
    keypoints, _ = refine_soft_argmax(corner, torch.tensor([[[0, 0]]]), logarithmic=True)
    assert keypoints.abs().max() < 1e-6
    score_map = torch.rand(1, 9, 9, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[[4, 4], [2, 6]]])
    assert torch.autograd.gradcheck(lambda s: refine_soft_argmax(s, xy), score_map)
    assert torch.autograd.gradcheck(
        lambda s: refine_soft_argmax(s, xy, temperature=0.5, logarithmic=True), score_map
    )


def test_bilinear_neighbours_blend_to_the_point_and_stay_inside() -> None:
    points = torch.tensor([[[1.25, 2.5], [8.0, 5.0], [0.0, 0.0], [99.0, -3.0], [torch.nan] * 2]])
    pixels, weights = bilinear_neighbors(points, 6, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 5))
    blended = (pixels * weights[..., None]).sum(2)
    torch.testing.assert_close(blended[0, :3], points[0, :3])
    torch.testing.assert_close(blended[0, 3], torch.tensor([8.0, 0.0]))
    assert pixels.amin() >= 0 and (pixels <= torch.tensor([8, 5])).all()


def test_pixels_of_images_beyond_16_megapixels_are_told_apart() -> None:
    pixels = torch.tensor([[[5998.0, 3999.0], [5999.0, 3999.0]]])
    assert flat_index(pixels, 6000).tolist() == [[23_999_998, 23_999_999]]
