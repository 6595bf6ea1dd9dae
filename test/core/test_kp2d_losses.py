"""KP2D's losses on cases that can be done by hand; test_training_kp2d has the published values."""

from kpfeat_core.losses import kp2d as losses
from kpfeat_core.losses.common import infonce_terms
import pytest
import torch
import torch.nn.functional as F

PLACES = [[10.0, 10.0], [30.0, 10.0], [10.0, 30.0], [30.0, 30.0]]
ALL = torch.ones(1, 4, dtype=torch.bool)


def places(*moves: tuple[float, float]) -> torch.Tensor:
    """Return four places, (1, 4, 2), the first ones of them moved."""
    moved = torch.tensor([PLACES])
    for i, move in enumerate(moves):
        moved[0, i] += torch.tensor(move)
    return moved


def nearest(*moves: tuple[float, float], counted: torch.Tensor = ALL) -> losses.Nearest:
    return losses.nearest_keypoints(places(), places(*moves), counted)


def vectors(*angles_deg: float) -> torch.Tensor:
    """Return unit vectors, (1, N, 2), at these angles."""
    angles = torch.tensor(angles_deg).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], -1)[None]


def chord(angle_deg: float) -> float:
    """Return the distance of unit vectors at this angle to each other."""
    return float(2 * torch.tensor(angle_deg / 2).deg2rad().sin())


def test_the_distance_of_close_keypoints_is_averaged() -> None:
    found = nearest((3, 0), (0, 1), (3.9, 0), (4.1, 0))
    assert found.index.tolist() == [[0, 1, 2, 3]]
    assert found.close.tolist() == [[True, True, True, False]]
    assert float(losses.localization_loss(found)) == pytest.approx((3 + 1 + 3.9) / 3)


def test_keypoints_that_do_not_count_change_nothing() -> None:
    counted = torch.tensor([[True, True, False, False]])
    warped = places()
    warped[0, 2] = torch.nan
    found = losses.nearest_keypoints(warped, places((2, 0)), counted)
    assert float(losses.localization_loss(found)) == pytest.approx(1.0)


def test_the_localization_loss_falls_as_keypoints_move_to_the_truth() -> None:
    found = [float(losses.localization_loss(nearest((step, 0)))) for step in (3, 2, 1, 0)]
    assert found == sorted(found, reverse=True) and found[-1] == 0


def test_exact_keypoints_have_a_finite_gradient() -> None:
    keypoints = places().requires_grad_()
    losses.localization_loss(losses.nearest_keypoints(places(), keypoints, ALL)).sum().backward()
    assert keypoints.grad.abs().max() == 0


def test_scores_rise_where_keypoints_repeat_better_than_the_average() -> None:
    scores = torch.full((2, 1, 4), 0.5, requires_grad=True)
    found = nearest((3, 0), (1, 0), (1, 0), (1, 0))
    (gradient,) = torch.autograd.grad(losses.score_loss(found, *scores).sum(), scores)
    assert (gradient[:, 0, 0] > 0).all() and (gradient[:, 0, 1:] < 0).all()


def test_usefulness_is_the_covariance_of_score_and_distance() -> None:
    found = nearest((3, 0), (1, 0))
    scores = torch.tensor([[0.2, 0.6, 0.4, 0.1]]), torch.tensor([[0.3, 0.5, 0.1, 0.2]])
    sums, distances = sum(scores), found.distance
    expected = (sums * distances).mean() - sums.mean() * distances.mean()
    assert float(losses.score_loss(found, *scores)) == pytest.approx(float(expected))


def test_equal_scores_are_consistent_and_others_cost_twice_the_square() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert losses.score_consistency_loss(scores, scores, ALL) == 0
    other = torch.tensor([[0.9, 0.5, 0.5, 0.5]])
    cost = losses.score_consistency_loss(scores, other, ALL)
    assert float(cost) == pytest.approx(2 * 0.16 / 4)
    assert losses.score_consistency_loss(scores, other, ~ALL) == 0


def test_the_hardest_negative_is_the_nearest_descriptor_of_another_place() -> None:
    anchors, others = vectors(0, 90, 180, 270), vectors(10, 40, 180, 270)
    terms = losses.triplet_terms(anchors, others, places(), ALL, margin=1.0)
    expected = max(0.0, 1.0 + chord(10) - chord(40))
    assert float(terms.loss[0, 0]) == pytest.approx(expected, abs=1e-5)
    assert terms.correct.tolist() == [[True, True, True, True]]


def test_near_places_are_no_negatives_within_a_box() -> None:
    anchors, others = vectors(0, 90, 180, 270), vectors(10, 40, 180, 270)
    warped = places()
    warped[0, 1] = warped[0, 0] + 4  # 5.7 pixels away, but 4 along either axis
    near = losses.triplet_terms(anchors, others, warped, ALL, margin=2.0)
    expected = 2.0 + chord(10) - chord(90)  # that at 270 degrees is next
    assert float(near.loss[0, 0]) == pytest.approx(expected, abs=1e-5)
    warped[0, 1, 0] += 0.1
    far = losses.triplet_terms(anchors, others, warped, ALL, margin=2.0)
    assert float(far.loss[0, 0]) == pytest.approx(2.0 + chord(10) - chord(40), abs=1e-5)


def test_a_nearer_descriptor_of_another_place_is_no_recall() -> None:
    terms = losses.triplet_terms(
        vectors(0, 90, 180, 270), vectors(40, 10, 180, 270), places(), ALL
    )
    assert terms.correct.tolist() == [[False, False, True, True]]
    unknown = torch.tensor([[True, False, True, True]])
    terms = losses.triplet_terms(
        vectors(0, 90, 180, 270), vectors(40, 10, 180, 270), places(), unknown
    )
    assert terms.correct.tolist() == [[True, False, True, True]]


def test_the_triplet_loss_falls_as_descriptors_turn_to_the_truth() -> None:
    anchors = vectors(0, 90, 180, 270)
    found = [
        float(
            losses.triplet_terms(anchors, vectors(a, 90, 180, 270), places(), ALL, 1.5).loss[0, 0]
        )
        for a in (60, 30, 10, 0)
    ]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]


def test_the_softmax_is_the_cross_entropy_of_both_directions() -> None:
    anchors, others = vectors(0, 90, 180, 270), vectors(10, 70, 200, 300)
    logits = (anchors[0] @ others[0].T) / 0.5
    own = torch.arange(4)
    expected = sum(F.cross_entropy(side, own, reduction='none') for side in (logits, logits.T)) / 2
    terms = infonce_terms(anchors, others, places(), ALL, 0.5)
    torch.testing.assert_close(terms[0], expected)


def test_the_softmax_has_no_rivals_that_are_near_or_do_not_count() -> None:
    anchors, others = vectors(0, 90, 180, 270), vectors(0, 0, 180, 270)
    warped = places()
    warped[0, 1] = warped[0, 0] + 4
    counted = torch.tensor([[True, True, False, False]])
    warped[0, 2:] = torch.nan
    assert infonce_terms(anchors, others, warped, counted).tolist() == [[0, 0, 0, 0]]
    warped[0, 1, 0] += 0.1
    terms = infonce_terms(anchors, others, warped, counted)
    assert terms[0, 0] > 0.3 and terms[0, 2:].tolist() == [0, 0]


def test_triplets_crowd_descriptors_together_and_the_softmax_spreads_them() -> None:
    """Sixty steps of a linear map, with 16 numbers that views share and 48 of noise."""
    warped = 10 * torch.arange(100.0).view(1, 100, 1).expand(1, 100, 2)
    counted = torch.ones(1, 100, dtype=torch.bool)
    shared = torch.arange(64) < 16
    alike = []
    for terms in (infonce_terms, lambda *given: losses.triplet_terms(*given).loss):
        generator = torch.Generator().manual_seed(0)
        weights = (torch.randn(64, 32, generator=generator) / 8).requires_grad_()
        optimizer = torch.optim.Adam([weights], 1e-2)
        for _ in range(60):
            own, *noise = torch.randn(3, 1, 100, 64, generator=generator)
            views = [torch.where(shared, own, 2 * n) + 1 for n in noise]
            described = [F.normalize(view @ weights, dim=-1) for view in views]
            optimizer.zero_grad()
            terms(*described, warped, counted).mean().backward()
            optimizer.step()
        alike.append(float((described[0] @ described[0].mT).detach().mean()))
    assert alike[0] < 0.2 < 0.8 < alike[1]


def test_images_with_few_keypoints_have_no_triplet_loss() -> None:
    terms = torch.ones(2, 30)
    counted = torch.zeros(2, 30, dtype=torch.bool)
    counted[0, :20] = True
    counted[1, :19] = True
    assert losses.triplet_loss(terms, counted).tolist() == [1.0, 0.0]


def test_the_highest_or_the_lowest_scores_are_chosen() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.0]])
    assert losses.choose_for_rejection(scores, 2).tolist() == [[1, 2]]
    assert losses.choose_for_rejection(scores, 2, 'lowest').tolist() == [[3, 0]]
    assert losses.choose_for_rejection(scores, 9).shape == (1, 4)


def test_matches_join_places_and_descriptor_distance() -> None:
    here, there = torch.rand(1, 2, 2), torch.rand(1, 3, 2)
    found = losses.putative_matches(here, there, vectors(0, 90), vectors(80, 180, 20))
    assert found.partner.tolist() == [[2, 0]]
    torch.testing.assert_close(found.matches[..., :2], here)
    torch.testing.assert_close(found.matches[0, :, 2:4], there[0, [2, 0]])
    assert found.matches[0, :, 4].tolist() == pytest.approx([chord(20), chord(10)])


def test_answers_are_compared_with_one_and_minus_one() -> None:
    inliers = torch.tensor([[True] * 11 + [False] * 9])
    known = torch.ones_like(inliers)
    right = torch.where(inliers, 1.0, -1.0)
    assert losses.outlier_rejection_loss(right, inliers, known) == 0
    assert losses.outlier_rejection_loss(0 * right, inliers, known) == 1
    assert losses.outlier_rejection_loss(-right, inliers, known) == 4
    inliers[0, 0] = False  # ten are not enough
    assert losses.outlier_rejection_loss(-right, inliers, known) == 0


def test_inliers_are_counted_in_the_whole_batch() -> None:
    inliers = torch.zeros(2, 10, dtype=torch.bool)
    inliers[0, :10], inliers[1, :1] = True, True
    answers = torch.zeros(2, 10)
    found = losses.outlier_rejection_loss(answers, inliers, torch.ones_like(inliers))
    assert found.tolist() == [1.0, 1.0]


@pytest.mark.parametrize('count', [0, 5])
def test_without_anything_that_counts_all_losses_are_zero_and_not_nan(count) -> None:
    keypoints = torch.rand(2, count, 2).requires_grad_()
    scores = torch.rand(2, count).requires_grad_()
    descriptors = torch.randn(2, count, 8).requires_grad_()
    unit = F.normalize(descriptors, dim=-1)
    nothing = torch.zeros(2, count, dtype=torch.bool)
    nowhere = keypoints * torch.nan
    found = losses.nearest_keypoints(nowhere, keypoints, nothing)
    terms = losses.triplet_terms(unit, unit, nowhere, nothing)
    values = [
        losses.localization_loss(found),
        losses.score_loss(found, scores, scores),
        losses.score_consistency_loss(scores, scores, nothing),
        losses.triplet_loss(terms.loss, nothing),
        losses.triplet_loss(infonce_terms(unit, unit, nowhere, nothing), nothing),
        losses.outlier_rejection_loss(scores, nothing, nothing),
    ]
    for value in values:
        assert value.tolist() == [0, 0]
    assert not terms.correct.any()
    gradients = torch.autograd.grad(
        sum(v.sum() for v in values), (scores, descriptors), allow_unused=True
    )
    assert all(g is None or g.abs().sum() == 0 for g in gradients)


def test_no_keypoints_in_view_1_are_near_to_none() -> None:
    found = losses.nearest_keypoints(places(), torch.zeros(1, 0, 2), ALL)
    assert not found.close.any() and found.index.shape == (1, 4)


def test_gradients_are_right_in_double_precision() -> None:
    torch.manual_seed(0)
    exact = {'dtype': torch.float64, 'requires_grad': True}
    keypoints0 = torch.tensor([PLACES], **exact)
    offsets = (2 * torch.rand(1, 4, 2, **exact)).detach()
    keypoints1 = (keypoints0 + offsets).detach().requires_grad_()
    scores0, scores1 = torch.rand(1, 4, **exact), torch.rand(1, 4, **exact)
    descriptors = [torch.randn(1, 4, 3, **exact) for _ in range(2)]
    counted = torch.tensor([[True, True, True, False]])

    def detection(keypoints0, keypoints1, scores0, scores1):
        found = losses.nearest_keypoints(keypoints0, keypoints1, counted)
        return (
            losses.localization_loss(found),
            losses.score_loss(found, scores0, scores1),
            losses.score_consistency_loss(scores0, scores1, counted),
        )

    def description(first, second):
        unit = [F.normalize(d, dim=-1) for d in (first, second)]
        given = (*unit, keypoints0.detach(), counted)
        return [
            losses.triplet_loss(terms, counted, at_least=1)
            for terms in (
                losses.triplet_terms(*given, margin=1.0).loss,
                infonce_terms(*given, temperature=0.5),
            )
        ]

    def rejection(first, second, here, there):
        unit = [F.normalize(d, dim=-1) for d in (first, second)]
        matches = losses.putative_matches(here, there, *unit).matches
        answers = matches.square().sum(-1)  # instead of a network
        return losses.outlier_rejection_loss(answers, counted, counted, more_than=1)

    inputs = (keypoints0, keypoints1, scores0, scores1)
    assert torch.autograd.gradcheck(detection, inputs)
    assert torch.autograd.gradcheck(description, tuple(descriptors))
    assert torch.autograd.gradcheck(rejection, (*descriptors, keypoints0, keypoints1))
