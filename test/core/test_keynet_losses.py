"""Losses of Key.Net against the official code's, of HardNet against a loop, and their edges."""

from kpfeat_core.geometry import pixel_grid, warp_points
from kpfeat_core.losses import keynet as losses
import numpy as np
import pytest
from small_runs import descend
import torch
from torch.nn.functional import normalize

IDENTITY = torch.eye(3)[None]
TURNED = torch.tensor([[[0.9, -0.2, 8.0], [0.2, 0.95, -6.0], [1e-4, -2e-4, 1.0]]])


@pytest.fixture
def golden(reference):
    return np.load(reference / 'golden/keynet_ip_tf.npz')


def bumps(positions, size=(96, 96), sigma=1.5, dtype=torch.float32):
    """Return a score map (1, H, W) with a bump of height 1 at each (x, y)."""
    grid = pixel_grid(*size, dtype=dtype)
    distance = torch.cdist(grid, torch.as_tensor(positions, dtype=dtype))
    return (-(distance / sigma).square() / 2).exp().sum(1).view(1, *size)


def seen_from(other, H_0to1, size, border=16):
    """Return the map of image 1 as image 0 sees it under a homography, and what both see."""
    grid = pixel_grid(*size, dtype=other.dtype).expand(len(other), -1, -1)
    return losses.read_seen(other, warp_points(grid, H_0to1), size, border)


def msip(scores0, scores1, H_0to1, *windows, **options):
    """Return the loss of maps that a homography joins."""
    labels = [
        seen_from(scores1, H_0to1, scores0.shape[1:]),
        seen_from(scores0, torch.linalg.inv(H_0to1), scores1.shape[1:]),
    ]
    return losses.proposal_losses((scores0, scores1), labels, *windows, **options)


@pytest.mark.parametrize('window', [8, 16, 24, 32])
def test_proposals_are_those_of_the_official_code(golden, window):
    found, scores = losses.index_proposals(torch.from_numpy(golden['scores']), window)
    count = 96 // window
    corners = (pixel_grid(count, count) * window).view(count, count, 2)
    inside = (found - corners).flip(-1).numpy() + 1  # there: row, column in the window, from 1 on
    np.testing.assert_allclose(inside, golden[f'ip_rc1_{window}'], rtol=1e-5)
    np.testing.assert_allclose(scores.numpy(), golden[f'soft_{window}'][..., 0], rtol=1e-5)


@pytest.mark.parametrize('weigh_by_score', [True, False])
@pytest.mark.parametrize('window', [8, 16, 24, 32])
def test_loss_is_that_of_the_official_code(golden, window, weigh_by_score):
    scores = [torch.from_numpy(golden[name]) for name in ('scores', 'dst_scores')]
    loss = msip(
        *scores, IDENTITY.expand(2, -1, -1), (window,), (1.0,), weigh_by_score=weigh_by_score
    )
    expected = float(golden[f'msip_identityH_w{window}_cw{int(weigh_by_score)}'])
    assert float(loss.mean()) == pytest.approx(expected, rel=1e-5)


def test_windows_add_up_with_their_weights(golden):
    scores = [torch.from_numpy(golden[name]) for name in ('scores', 'dst_scores')]
    H = IDENTITY.expand(2, -1, -1)
    single = [
        weight * msip(*scores, H, (window,), (1.0,))
        for window, weight in ((8, 256.0), (16, 64.0), (24, 16.0), (32, 4.0), (40, 1.0))
    ]
    torch.testing.assert_close(msip(*scores, H), torch.stack(single).sum(0))


def test_a_lone_peak_is_proposed_where_it_is():
    score_map = torch.zeros(1, 16, 24)
    score_map[0, 5, 11] = 3.0  # row y = 5, column x = 11: window row 0, column 1
    found, scores = losses.index_proposals(score_map, 8)
    assert found.shape == (1, 2, 3, 2)
    assert found[0, 0, 1].tolist() == pytest.approx([11, 5], abs=1e-3)
    assert float(scores[0, 0, 1]) == pytest.approx(3, rel=1e-3)
    assert losses.window_maxima(score_map, 8)[0][0, 0, 1].tolist() == [11, 5]


def test_a_flat_window_proposes_its_center():
    for level in (0.0, 1e-4, 1.0, 1e4):
        found, scores = losses.index_proposals(torch.full((1, 8, 16), level), 8)
        assert found[0, 0, 1].tolist() == pytest.approx([11.5, 3.5], abs=1e-3)
        assert scores[0, 0, 1] == pytest.approx(level, rel=1e-5)


def test_rows_and_columns_beyond_the_last_window_are_not_used():
    torch.manual_seed(0)
    scores = torch.rand(1, 37, 44)
    whole, cut = (losses.index_proposals(s, 16) for s in (scores, scores[:, :32, :32]))
    assert whole[0].shape == (1, 2, 2, 2)
    torch.testing.assert_close(whole, cut)


@pytest.mark.parametrize('weigh_by_score', [True, False])
def test_loss_falls_as_peaks_come_to_their_true_places(weigh_by_score):
    truth = torch.tensor([[28.0, 28.0], [51.0, 37.0], [36.0, 60.0], [61.0, 62.0]])
    there = warp_points(truth[None], TURNED)[0]
    values = []
    for shift in (3.0, 2.0, 1.0, 0.0):
        loss = msip(bumps(truth + shift), bumps(there), TURNED, weigh_by_score=weigh_by_score)
        values.append(float(loss))
    assert values == sorted(values, reverse=True) and values[0] > 1.5 * values[-1]


def test_homography_takes_pixels_of_image_0_to_image_1():
    truth = torch.tensor([[28.0, 28.0], [51.0, 37.0], [36.0, 60.0], [61.0, 62.0]])
    maps = bumps(truth), bumps(warp_points(truth[None], TURNED)[0])
    right = msip(*maps, TURNED)
    wrong = msip(*maps, torch.linalg.inv(TURNED))
    assert right < 0.5 * wrong


def test_both_directions_count_alike():
    torch.manual_seed(0)
    maps = torch.rand(1, 96, 96) ** 4, torch.rand(1, 80, 112) ** 4
    forth = msip(*maps, TURNED)
    back = msip(*maps[::-1], torch.linalg.inv(TURNED))
    torch.testing.assert_close(forth, back, rtol=1e-4, atol=0)


def test_descent_moves_a_bump_to_the_maximum_of_the_other_image():
    target = bumps([[33.0, 34.0]], (64, 64))
    logits = (bumps([[39.0, 37.0]], (64, 64)) + 0.05).log()

    def loss(free):
        return msip(free.exp(), target, IDENTITY, weigh_by_score=False).sum()

    values = descend(loss, logits, 0.2, 40, relative=True)
    assert values[-1] < 0.5 * values[0]


def test_label_has_no_gradient():
    maps = [torch.rand(1, 64, 64, requires_grad=True) for _ in range(2)]
    visible = torch.ones(1, 64, 64, dtype=torch.bool)
    loss = losses.index_proposal_loss(*maps, visible, 8).sum()
    gradients = torch.autograd.grad(loss, maps, allow_unused=True)
    assert gradients[0].abs().max() > 0 and gradients[1] is None


def test_what_one_image_alone_sees_does_not_count():
    torch.manual_seed(0)
    moved = torch.tensor([[[1.0, 0, 40], [0, 1, 0], [0, 0, 1]]])
    maps = torch.rand(2, 1, 96, 96)
    loss = msip(*maps, moved)
    changed = maps.clone()
    changed[0, :, :, 40:] = 5.0  # x > 39 of image 0 is within 16 pixels of the edge of image 1
    torch.testing.assert_close(msip(*changed, moved), loss)


def test_weights_of_windows_are_shared_within_an_image_and_not_within_the_batch():
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 96, 96) * torch.tensor([1.0, 5.0, 50.0])[:, None, None]
    H = IDENTITY.expand(3, -1, -1)
    together = msip(*maps, H)
    alone = [msip(*maps[:, i : i + 1], H[:1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(
    ('height', 'fill', 'shift'), [(64, 0.0, 0.0), (64, 1.0, 500.0), (7, 1.0, 0.0), (30, 1.0, 0.0)]
)
def test_no_score_no_overlap_and_no_window_cost_nothing_and_give_no_nan(height, fill, shift):
    # in turn: empty maps, views apart, less than a window, all within the border
    maps = [torch.full((2, height, 64), fill, requires_grad=True) for _ in range(2)]
    H = IDENTITY.repeat(2, 1, 1)
    H[:, 0, 2] = shift
    loss = msip(*maps, H)
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert all(value.grad.isfinite().all() for value in maps)


def test_gradients_are_right_in_double_precision():
    """The maximum of a window is a constant to the gradient, so it is held still here."""
    torch.manual_seed(0)
    scores, label = 0.8 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    peaks = torch.zeros(8, 8, dtype=torch.bool)
    peaks[1::4, 1::4] = True
    visible = torch.ones(1, 8, 8, dtype=torch.bool)
    visible[0, 4:, 4:] = False

    def loss(scores):
        held = torch.where(peaks, 1.0, scores)
        return losses.index_proposal_loss(held, label, visible, 4, weigh_by_score=False)

    assert torch.autograd.gradcheck(loss, (scores.requires_grad_(),))


def test_shares_of_windows_have_no_gradient():
    scores = torch.ones(1, 3, 6)
    label = torch.zeros(1, 3, 6)
    label[0, 1, [1, 3]] = 1.0  # the center of the first window, no center of the second
    visible = torch.ones(1, 3, 6, dtype=torch.bool)
    loss = losses.index_proposal_loss(scores.requires_grad_(), label, visible, 3)
    loss.sum().backward()
    assert scores.grad[..., :3].abs().max() < 1e-3 < 1 < scores.grad[..., 3:].abs().max()


def test_the_other_map_is_seen_where_warp_points_says():
    H = TURNED.double()
    truth = torch.tensor([[[40.0, 40.0], [51.0, 37.0]]], dtype=torch.float64)
    there = bumps(warp_points(truth, H)[0], dtype=torch.float64)
    label, visible = seen_from(there, H, (96, 96), border=0)
    for x, y in truth[0].long().tolist():
        assert label[0, y, x] > 0.85 and visible[0, y, x]
    shown = warp_points(pixel_grid(96, 96, dtype=torch.float64)[None], H)[0]
    expected = ((shown >= 0) & (shown <= 95)).all(-1).view(1, 96, 96)
    assert torch.equal(visible, expected) and not visible.all()


def random_pairs(count=12, dim=8, noise=0.3, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(batch, count, dim, generator=generator, dtype=dtype)
    second = first + noise * torch.randn(batch, count, dim, generator=generator, dtype=dtype)
    return normalize(first, dim=-1), normalize(second, dim=-1)


def everything(descriptors):
    return torch.ones(descriptors.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize('anchor_swap', [True, False])
def test_loss_is_that_of_a_loop_over_triplets(anchor_swap):
    anchors, partners = random_pairs(noise=0.8)
    mask = everything(anchors)
    mask[1, 9:] = False
    loss = losses.hardest_in_batch_loss(anchors, partners, mask, anchor_swap=anchor_swap)
    for image, count in enumerate((12, 9)):
        a, p = anchors[image, :count].double(), partners[image, :count].double()
        terms = []
        for i in range(count):
            wrong = [float((a[i] - p[j]).norm()) for j in range(count) if j != i]
            if anchor_swap:
                wrong += [float((a[j] - p[i]).norm()) for j in range(count) if j != i]
            terms.append(max(0, 1 + float((a[i] - p[i]).norm()) - min(wrong)))
        assert float(loss[image]) == pytest.approx(sum(terms) / count, rel=1e-5)
        assert loss[image] > 0.05


def test_distances_are_euclidean_and_safe_where_vectors_are_equal():
    a, b = random_pairs(dtype=torch.float64)
    torch.testing.assert_close(losses.descriptor_distances(a, b), torch.cdist(a, b))
    same = a.clone().requires_grad_()
    distance = losses.descriptor_distances(same, same)
    distance.sum().backward()
    assert distance.diagonal(dim1=1, dim2=2).max() <= 1.001e-3
    assert same.grad.isfinite().all() and same.grad.abs().max() < 100


def test_loss_falls_as_partners_approach_each_other():
    values = []
    for noise in (1.0, 0.5, 0.2, 0.0):
        anchors, partners = random_pairs(count=40, dim=32, noise=noise, batch=1)
        loss = losses.hardest_in_batch_loss(anchors, partners, everything(anchors))
        values.append(float(loss))
    assert values == sorted(values, reverse=True) and values[0] > 2 * values[-1] + 0.1


def test_descent_pulls_partners_together_and_pushes_the_hardest_negative_away():
    anchors, partners = random_pairs(count=10, noise=2.0, batch=1)

    def loss(free):
        unit = normalize(free, dim=-1)
        return losses.hardest_in_batch_loss(unit, partners, everything(anchors)).sum()

    values = descend(loss, anchors, 0.5, 60)
    assert values[-1] < 0.7 * values[0]


def test_partners_and_twins_are_no_negatives():
    # rows 0 and 1 are one point twice; without the twin rule the loss would be 1
    anchors = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    loss = losses.hardest_in_batch_loss(anchors, anchors, everything(anchors))
    assert float(loss) == 0  # the true negatives are sqrt(2) away, beyond the margin


def test_pairs_known_to_show_one_point_are_no_negatives():
    anchors = normalize(torch.tensor([[[1.0, 0, 0], [1, 0.2, 0], [0, 1, 0]]]), dim=-1)
    same = torch.zeros(1, 3, 3, dtype=torch.bool)
    apart = losses.hardest_in_batch_loss(anchors, anchors, everything(anchors), same)
    same[0, 0, 1] = same[0, 1, 0] = True
    together = losses.hardest_in_batch_loss(anchors, anchors, everything(anchors), same)
    assert apart > 0.5 and together == 0


def test_padding_changes_nothing():
    anchors, partners = random_pairs(noise=0.8)
    mask = everything(anchors)
    mask[:, 7:] = False
    expected = losses.hardest_in_batch_loss(anchors[:, :7], partners[:, :7], mask[:, :7])
    torch.testing.assert_close(losses.hardest_in_batch_loss(anchors, partners, mask), expected)


@pytest.mark.parametrize('count', [0, 1, 5])
def test_nothing_to_compare_costs_nothing_and_gives_no_nan(count):
    anchors = torch.full((2, count, 4), torch.nan, requires_grad=True)
    mask = torch.zeros(2, count, dtype=torch.bool)
    loss = losses.hardest_in_batch_loss(anchors, anchors, mask)
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert anchors.grad.isfinite().all()


def test_a_single_pair_has_no_negative_and_costs_nothing():
    anchors, partners = random_pairs(count=1)
    assert losses.hardest_in_batch_loss(anchors, partners, everything(anchors)).tolist() == [0, 0]


@pytest.mark.parametrize('anchor_swap', [True, False])
def test_gradients_of_hardnet_are_right_in_double_precision(anchor_swap):
    anchors, partners = random_pairs(count=4, dim=3, noise=0.8, dtype=torch.float64)
    mask = everything(anchors)
    mask[1, 3] = False

    def loss(a, p):
        unit = normalize(a, dim=-1), normalize(p, dim=-1)
        return losses.hardest_in_batch_loss(*unit, mask, anchor_swap=anchor_swap)

    inputs = anchors.requires_grad_(), partners.requires_grad_()
    assert loss(*inputs).min() > 0
    assert torch.autograd.gradcheck(loss, inputs)
