"""Score maps become keypoints."""

from kpfeat_core.describe import bilinear_neighbours, flat_index
from kpfeat_core.keypoints import (
    best_first,
    clear_borders,
    gather_windows,
    Keypoints,
    max_filter,
    refine_soft_argmax,
    select_best,
    suppress_non_maxima,
)
import pytest
import torch


def greedy(score_map: torch.Tensor, radius: int) -> set[tuple[int, int]]:
    """Non-maximum suppression by a loop: best first, suppress its window."""
    left = score_map.clone()
    kept = set()
    while left.max() > 0:
        y, x = divmod(int(left.argmax()), left.shape[1])
        kept.add((x, y))
        left[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = 0
    return kept


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
    rows, columns = torch.nonzero(kept[0], as_tuple=True)
    found = set(zip(columns.tolist(), rows.tolist(), strict=True))
    assert found == greedy(score_map[0], 2)


@pytest.mark.parametrize('radius', [1, 2, 3, 4, 9])
def test_running_maxima_equal_max_pooling(radius: int) -> None:
    maps = torch.randn(2, 7, 12)
    pooled = torch.nn.functional.max_pool2d(maps, 2 * radius + 1, 1, radius)
    assert torch.equal(max_filter(maps, radius), pooled)
    marks = maps > 1
    pooled = torch.nn.functional.max_pool2d(marks.float(), 2 * radius + 1, 1, radius) > 0
    assert torch.equal(max_filter(marks, radius), pooled)


def test_radius_zero_keeps_everything() -> None:
    score_map = torch.rand(1, 5, 5)
    assert torch.equal(suppress_non_maxima(score_map, 0), score_map)


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


def test_threshold_drops_scores_at_or_below_it() -> None:
    score_map = torch.tensor([[[0.25, 0.5], [0.75, 0.0]]])
    assert select_best(score_map, 0.5, -1)[1].tolist() == [[0.75]]


def test_nothing_above_the_threshold_gives_no_keypoints() -> None:
    xy, scores, mask = select_best(torch.zeros(2, 4, 4), 0.0, 10)
    assert xy.shape == (2, 0, 2) and mask.shape == (2, 0)


def test_borders_are_cleared_even_if_they_cover_the_image() -> None:
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
    sharper = refine_soft_argmax(score_map**8, torch.tensor([[[7, 7]]]))[1]
    assert sharper < dispersity


def test_refinement_passes_gradients_to_the_score_map() -> None:
    score_map = torch.rand(1, 9, 9, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[[4, 4], [2, 6]]])
    assert torch.autograd.gradcheck(lambda s: refine_soft_argmax(s, xy), score_map)


def test_bilinear_neighbours_blend_to_the_point_and_stay_inside() -> None:
    points = torch.tensor([[[1.25, 2.5], [8.0, 5.0], [0.0, 0.0], [99.0, -3.0], [torch.nan] * 2]])
    pixels, weights = bilinear_neighbours(points, 6, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 5))
    blended = (pixels * weights[..., None]).sum(2)
    torch.testing.assert_close(blended[0, :3], points[0, :3])
    torch.testing.assert_close(blended[0, 3], torch.tensor([8.0, 0.0]))
    assert pixels.amin() >= 0 and (pixels <= torch.tensor([8, 5])).all()


def test_pixels_of_images_beyond_16_megapixels_are_told_apart() -> None:
    pixels = torch.tensor([[[5998.0, 3999.0], [5999.0, 3999.0]]])
    assert flat_index(pixels, 6000).tolist() == [[23_999_998, 23_999_999]]
