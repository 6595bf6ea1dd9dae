"""ALIKE's losses against the official code's numbers, and their behaviour at the edges."""

from dense_alike import dense_descriptors
from kpfeat_core.geometry import bilinear_neighbors, inside, sample, warp_points
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.losses import alike as losses
from kpfeat_core.registry import build_extractor
import numpy as np
import pytest
import torch

HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope='module')
def pair(reference):
    """Return the golden arrays and, for both views, maps and the official code's keypoints."""
    golden = np.load(reference / 'golden/alike_losses.npz')
    extractor = build_extractor('alike-t').eval()
    state = torch.load(reference / 'weights/alike/alike-t.pth', weights_only=True)
    extractor.load_state_dict(state)
    image0 = np.load(reference / 'golden/image_synth_240x320.npz')['rgb']
    extractor = extractor.with_options(
        detection_threshold=0.0, max_num_keypoints=60, remove_borders=2, upstream_borders=True
    )
    views = []
    for image, name in ((image0, 'kpts0'), (golden['im1'], 'kpts1')):
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            maps = extractor(torch.nn.functional.pad(tensor, (0, 0, 0, 16)))
            found = extractor.detect(extractor.crop(maps, (HEIGHT, WIDTH)))
        size = torch.tensor([WIDTH - 1, HEIGHT - 1])
        expected = (torch.from_numpy(golden[name]) + 1) / 2 * size
        distance = (expected[:, None] - found.keypoints[0]).norm(dim=-1)
        assert distance.min(1).values.max() < 0.02
        order = distance.argmin(1)
        dense = dense_descriptors(extractor, maps)[:, :, :HEIGHT].detach()
        views.append(
            {
                'keypoints': found.keypoints[:, order],
                'scores': found.keypoint_scores[:, order],
                'dispersity': found.dispersity[:, order],
                'descriptors': extractor.describe(
                    maps, Keypoints.at(found.keypoints[:, order])
                ).detach(),
                'score_map': maps.score_map[:, None, :HEIGHT],
                'dense': dense.flatten(2).mT,
            }
        )
    H = torch.from_numpy(golden['H']).float()[None]
    for here, there, homography in ((0, 1, H), (1, 0, torch.linalg.inv(H))):
        view = views[here]
        view['warped'] = warp_points(view['keypoints'], homography)
        view['valid'] = inside(view['warped'], HEIGHT, WIDTH)
        pixels, weights = bilinear_neighbors(view['warped'], HEIGHT, WIDTH)
        index = (pixels[..., 1] * WIDTH + pixels[..., 0]).long()[0]
        around = views[there]['dense'][0][index][None]
        view['similarity'] = (around * view['descriptors'][:, :, None]).sum(-1)
        view['weights'] = weights
        view['scores_there'] = sample(views[there]['score_map'], view['warped'])[..., 0]
    return golden, views


def match(views):
    return losses.true_correspondences(
        *(v['keypoints'] for v in views),
        *(v['warped'] for v in views),
        *(v['valid'] for v in views),
    )


def test_correspondences_are_those_of_the_official_code(pair):
    golden, views = pair
    matches0 = match(views)[0]
    index0 = torch.nonzero(matches0 >= 0)[:, 0]
    found = set(zip(index0.tolist(), matches0[index0].tolist(), strict=True))
    expected0 = golden['ids0'][golden['ids0_d']]  # its indices count the valid keypoints only
    expected1 = golden['ids1'][golden['ids1_d']]
    assert found == set(zip(expected0.tolist(), expected1.tolist(), strict=True))
    for view, name in zip(views, ('ids0', 'ids1'), strict=True):
        assert torch.nonzero(view['valid'][0])[:, 0].tolist() == golden[name].tolist()
        assert torch.nonzero(~view['valid'][0])[:, 0].tolist() == golden[f'{name}_out'].tolist()


def test_dispersity_peak_loss_is_that_of_the_official_code(pair):
    golden, views = pair
    for view, name in zip(views, ('peaky0', 'peaky1'), strict=True):
        mask = torch.ones_like(view['scores'], dtype=torch.bool)
        loss = losses.dispersity_peak_loss(view['dispersity'], view['scores'], mask)
        assert float(loss) == pytest.approx(float(golden[name]), rel=1e-4)


def test_reprojection_loss_is_that_of_the_official_code(pair):
    golden, views = pair
    loss = losses.reprojection_loss(
        *(v['keypoints'] for v in views),
        *(v['warped'] for v in views),
        match(views),
        *(v['scores'] for v in views),
    )
    assert float(loss) == pytest.approx(float(golden['reproj_l1']), rel=1e-4)


def test_reliability_loss_is_that_of_the_official_code(pair):
    golden, views = pair
    terms, masks = [], []
    for view in views:
        reliability = losses.match_probability(view['similarity'], view['weights'], 0.1)
        terms.append(
            losses.reliability_terms(
                reliability, view['scores'], view['scores_there'], view['valid']
            )
        )
        masks.append(view['valid'])
    loss = losses.masked_mean(torch.cat(terms, 1), torch.cat(masks, 1))
    assert float(loss) == pytest.approx(float(golden['reliability']), rel=1e-4)


@pytest.mark.parametrize('temperature', [0.1, 0.02])
@pytest.mark.parametrize('chunk', [2**24, 2**20])
def test_nre_is_that_of_the_official_code_in_one_piece_and_in_chunks(
    pair, temperature, chunk, monkeypatch
):
    monkeypatch.setattr(losses, 'CHUNK_FLOATS', chunk)
    golden, views = pair
    terms = []
    for view, other in (views, views[::-1]):
        probability = losses.match_probability(view['similarity'], view['weights'], temperature)
        log_sum = losses.log_partition(view['descriptors'], other['dense'], temperature)
        terms.append(
            losses.neural_reprojection_terms(
                probability.log(), log_sum, view['valid'], ~view['valid']
            )
        )
    loss = torch.cat(terms, 1).mean()
    assert float(loss) == pytest.approx(float(golden[f'nre_t{temperature}']), rel=1e-4)


def test_chunks_give_the_same_gradient(monkeypatch):
    torch.manual_seed(0)
    descriptors = torch.nn.functional.normalize(torch.randn(2, 30, 8), dim=-1)
    others = torch.nn.functional.normalize(torch.randn(2, 50, 8), dim=-1)
    near = torch.rand(2, 30, 50) < 0.2
    gradients = []
    for chunk in (2**24, 500):
        monkeypatch.setattr(losses, 'CHUNK_FLOATS', chunk)
        inputs = [descriptors.clone().requires_grad_(), others.clone().requires_grad_()]
        losses.log_partition(*inputs, 0.1, near).sum().backward()
        gradients.append([value.grad for value in inputs])
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, chunked)


def test_partners_are_less_than_the_threshold_apart():
    keypoints = torch.tensor([[[20.0, 20.0], [60.0, 60.0]]])
    warped = keypoints + torch.tensor([[4.9, 0.0], [0.0, 5.1]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    back = keypoints - torch.tensor([[4.9, 0.0], [0.0, 5.1]])
    matches = losses.true_correspondences(keypoints, keypoints, warped, back, valid, valid)
    assert matches.tolist() == [[0, -1]]


def test_points_with_a_low_score_are_not_yet_keypoints():
    keypoints = torch.tensor([[[20.0, 20.0], [60.0, 60.0]]])
    matches, sure = torch.tensor([[0, 1]]), torch.tensor([[0.9, 0.9]])
    warped = keypoints + torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    for scores in ((sure, torch.tensor([[0.9, 0.05]])), (torch.tensor([[0.9, 0.05]]), sure)):
        loss = losses.reprojection_loss(keypoints, keypoints, warped, warped, matches, *scores)
        assert loss == 0
    mask = torch.tensor([[True, True]])
    spread = torch.tensor([[0.25, 0.75]])
    assert losses.dispersity_peak_loss(spread, torch.tensor([[0.9, 0.05]]), mask) == 0.25


def test_reliability_teaches_scores_and_leaves_descriptors_alone():
    reliability = torch.tensor([[0.3, 0.8]], requires_grad=True)
    scores = torch.tensor([[0.5, 0.7]], requires_grad=True)
    valid = torch.ones(1, 2, dtype=torch.bool)
    terms = losses.reliability_terms(reliability, scores, scores, valid)
    gradients = torch.autograd.grad(terms.sum(), (reliability, scores), allow_unused=True)
    assert gradients[0] is None and gradients[1].abs().min() > 0


def test_points_behind_the_camera_neither_match_nor_spoil_the_gradient():
    keypoints = torch.tensor([[[5.0, 5.0], [9.0, 9.0]]], requires_grad=True)
    warped = torch.tensor([[[5.5, 5.0], [torch.nan, torch.nan]]])
    valid = torch.tensor([[True, False]])
    scores = torch.ones(1, 2)
    matches = losses.true_correspondences(keypoints, keypoints, warped, warped, valid, valid)
    assert matches.tolist() == [[0, -1]]
    loss = losses.reprojection_loss(keypoints, keypoints, warped, warped, matches, scores, scores)
    loss.sum().backward()
    assert torch.isfinite(keypoints.grad).all()


def test_a_high_score_at_an_unreliable_point_costs_more_than_a_low_one():
    reliability = torch.tensor([[1.0, 0.0]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    costs = []
    for score in (0.9, 0.1):
        scores = torch.tensor([[0.5, score]])
        costs.append(losses.reliability_terms(reliability, scores, scores, valid).mean())
    assert costs[0] > costs[1]


def test_gradients_are_right_in_double_precision():
    torch.manual_seed(0)
    kwargs = {'dtype': torch.float64, 'requires_grad': True}
    similarity = torch.rand(1, 3, 4, **kwargs)
    weights = torch.rand(1, 3, 4, **kwargs)
    scores, there = torch.rand(1, 3, **kwargs), torch.rand(1, 3, **kwargs)
    descriptors, others = torch.rand(1, 3, 4, **kwargs), torch.rand(1, 5, 4, **kwargs)
    valid = torch.tensor([[True, True, False]])

    def nre(similarity, weights, descriptors, others):
        probability = losses.match_probability(similarity, weights, 0.3)
        log_sum = losses.log_partition(descriptors, others, 0.3)
        return losses.neural_reprojection_terms(probability.log(), log_sum, valid, ~valid)

    assert torch.autograd.gradcheck(nre, (similarity, weights, descriptors, others))
    fixed = torch.rand(1, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: losses.reliability_terms(fixed, a, b, valid), (scores, there)
    )


def test_gradients_of_positions_and_spread_are_right_in_double_precision():
    torch.manual_seed(0)
    kwargs = {'dtype': torch.float64, 'requires_grad': True}
    points = [torch.rand(2, 4, 2, **kwargs) for _ in range(4)]
    matches = torch.tensor([[0, 2, -1, 3], [1, -1, -1, -1]])
    scores = [0.2 + torch.rand(2, 4, dtype=torch.float64) for _ in range(2)]

    def reprojection(*points):
        return losses.reprojection_loss(*points, matches, *scores)

    assert reprojection(*points).min() > 0
    assert torch.autograd.gradcheck(reprojection, points)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    spread = torch.rand(2, 4, **kwargs)
    assert torch.autograd.gradcheck(
        lambda values: losses.dispersity_peak_loss(values, scores[0], mask), (spread,)
    )
    outside = torch.tensor([[False, False, True]])
    log_sum = torch.rand(1, 3, **kwargs)
    assert torch.autograd.gradcheck(
        lambda value: losses.neural_reprojection_terms(-value, value, ~outside, outside),
        (log_sum,),
    )


def test_reprojection_and_dispersity_fall_as_keypoints_and_peaks_come_near_the_truth():
    torch.manual_seed(0)
    truth, shift = 50 * torch.rand(1, 12, 2), torch.tensor([7.0, -3.0])
    error, scores = torch.randn(1, 12, 2), torch.ones(1, 12)
    matches = torch.arange(12)[None]
    mask = torch.ones(1, 12, dtype=torch.bool)
    values, spreads = [], []
    for share in (2.0, 1.0, 0.5, 0.0):
        found = truth + share * error
        values.append(
            losses.reprojection_loss(
                found, truth + shift, found + shift, truth, matches, scores, scores
            ).item()
        )
        spreads.append(losses.dispersity_peak_loss(share * scores, scores, mask).item())
    assert values == sorted(values, reverse=True) and values[0] > 1 and values[-1] < 1e-5
    assert spreads == sorted(spreads, reverse=True) and spreads[-1] == 0


def test_nre_falls_as_descriptors_turn_to_those_at_their_true_places():
    torch.manual_seed(0)
    others = torch.nn.functional.normalize(torch.randn(1, 60, 16), dim=-1)
    mine = torch.nn.functional.normalize(torch.randn(1, 10, 16), dim=-1)
    valid = torch.ones(1, 10, dtype=torch.bool)
    alone = torch.tensor([1.0, 0, 0, 0]).expand(1, 10, 4)  # true places are pixels 0 to 9
    values = []
    for share in (0.0, 0.5, 1.0):
        turned = torch.nn.functional.normalize((1 - share) * mine + share * others[:, :10], dim=-1)
        similarity = (turned * others[:, :10]).sum(-1, keepdim=True).expand(-1, -1, 4)
        probability = losses.match_probability(similarity, alone, 0.1)
        log_sum = losses.log_partition(turned, others, 0.1)
        terms = losses.neural_reprojection_terms(probability.log(), log_sum, valid, ~valid)
        values.append(terms.mean().item())
    assert values == sorted(values, reverse=True) and values[-1] < 0.1 * values[0]


@pytest.mark.parametrize('count', [0, 3])
def test_what_is_masked_costs_nothing_whatever_it_holds(count):
    """Neither values nor gradients become NaN where no keypoint counts, or none is there."""
    unknown = [torch.full((2, count, 2), torch.nan, requires_grad=True) for _ in range(4)]
    row = [torch.full((2, count), torch.nan, requires_grad=True) for _ in range(5)]
    none = torch.zeros(2, count, dtype=torch.bool)
    matches = losses.true_correspondences(*unknown, none, none)
    assert (matches == -1).all()
    nothing = torch.full((2, count), -1)
    total = losses.reprojection_loss(*unknown, nothing, row[0], row[1])
    total = total + losses.dispersity_peak_loss(row[2], row[0], none)
    total = total + losses.reliability_terms(row[3], row[0], row[1], none).sum(1)
    total = total + losses.neural_reprojection_terms(row[3], row[4], none, none).sum(1)
    total.sum().backward()
    assert total.tolist() == [0, 0]
    grads = [value.grad for value in (*unknown, *row) if value.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


def test_a_view_whose_every_pixel_is_left_out_gives_finite_values_and_gradients():
    descriptors = torch.rand(1, 3, 4, requires_grad=True)
    log_sum = losses.log_partition(
        descriptors, torch.rand(1, 5, 4), 0.1, torch.ones(1, 1, 5, dtype=torch.bool)
    )
    log_sum.sum().backward()
    assert log_sum.isfinite().all() and descriptors.grad.isfinite().all()
