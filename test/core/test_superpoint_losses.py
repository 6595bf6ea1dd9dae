"""SuperPoint's losses and labels against the official code, and their edges."""

from kpfeat_core.errors import ShapeError
from kpfeat_core.geometry import warp_points
from kpfeat_core.keypoints import Keypoints
from kpfeat_core.losses import superpoint as losses
from kpfeat_core.models.base import DenseMaps
from kpfeat_core.registry import build_extractor
import numpy as np
import pytest
from small_runs import descend
import torch
from torch.nn.functional import normalize


def test_detector_loss_is_that_of_the_official_code(reference):
    golden = np.load(reference / 'golden/superpoint_losses_tf.npz')
    classes = losses.cell_classes(torch.from_numpy(golden['kp']) > 0)
    valid = losses.valid_cells(torch.from_numpy(golden['valid']) > 0)
    loss = losses.cell_cross_entropy(
        torch.from_numpy(golden['logits']).permute(0, 3, 1, 2), classes, valid
    )
    cells = valid.sum((1, 2))
    mean = (loss * cells).sum() / cells.sum()  # published: over the cells of both images
    assert float(mean) == pytest.approx(float(golden['det_loss']), rel=1e-5)


def test_class_of_a_cell_is_the_pixel_row_after_row_and_the_dustbin_is_last():
    keypoints = torch.zeros(1, 16, 24, dtype=torch.bool)
    keypoints[0, 3, 5] = True  # y = 3, x = 5
    keypoints[0, 8, 23] = True
    assert losses.cell_classes(keypoints).tolist() == [[[29, 64, 64], [64, 64, 7]]]


def test_one_of_several_keypoints_in_a_cell_is_drawn_evenly_by_the_generator():
    keypoints = torch.zeros(500, 8, 8, dtype=torch.bool)
    keypoints[:, 1, 1] = keypoints[:, 2, 6] = keypoints[:, 7, 7] = True

    def draw(seed):
        return losses.cell_classes(keypoints, torch.Generator().manual_seed(seed)).flatten()

    assert losses.cell_classes(keypoints).unique().tolist() == [9]
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    values, counts = draw(0).unique(return_counts=True)
    assert values.tolist() == [9, 22, 63] and counts.min() > 120


def test_generator_changes_nothing_where_there_is_no_choice():
    keypoints = torch.zeros(1, 64, 64, dtype=torch.bool)
    keypoints[0, 4::16, 3::8] = True
    drawn = losses.cell_classes(keypoints, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, losses.cell_classes(keypoints))


def test_maps_without_a_whole_number_of_cells_are_refused_in_words():
    with pytest.raises(ShapeError, match='12x16 pixels.*multiples of 8'):
        losses.cell_classes(torch.zeros(1, 12, 16, dtype=torch.bool))


def test_a_cell_is_valid_only_if_all_its_pixels_are():
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[0, 15, 8] = False
    assert losses.valid_cells(valid).tolist() == [[[True, True], [True, False]]]


def test_soft_labels_of_whole_pixels_are_the_hard_ones():
    keypoints = torch.tensor([[[5.0, 3.0], [23.0, 8.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    label_map = losses.gaussian_label_map(keypoints, mask, 16, 24)
    soft = losses.soft_cell_classes(label_map)
    torch.testing.assert_close(soft.sum(1), torch.ones(1, 2, 3))
    hard = losses.cell_classes(label_map > 0.5)
    assert torch.equal(soft.argmax(1), hard)
    assert hard.tolist() == [[[29, 64, 64], [64, 64, 7]]]
    logits = torch.randn(1, 65, 2, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 2, 3, dtype=torch.bool)
    torch.testing.assert_close(
        losses.cell_cross_entropy(logits, soft, valid),
        losses.cell_cross_entropy(logits, hard, valid),
        rtol=1e-4,
        atol=0,
    )


def test_soft_labels_keep_fractions_of_pixels():
    mask = torch.ones(1, 1, dtype=torch.bool)
    between = losses.gaussian_label_map(torch.tensor([[[7.5, 4.0]]]), mask, 16, 16)
    assert between[0, 4, 7:9].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    soft = losses.soft_cell_classes(between)[0, :, 0]  # half in each of two cells
    assert soft[[39, 64], 0].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert soft[[32, 64], 1].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    wide = losses.gaussian_label_map(torch.tensor([[[7.3, 6.8]]]), mask, 16, 16, sigma_px=1.0)
    x = (wide[0].sum(0) * torch.arange(16)).sum()
    y = (wide[0].sum(1) * torch.arange(16)).sum()
    assert (float(x), float(y)) == pytest.approx((7.3, 6.8), abs=0.02)


def test_soft_labels_lose_what_lies_outside_and_share_a_crowded_cell():
    keypoints = torch.tensor([[[-9.0, 4.0], [40.0, 40.0], [torch.nan, 0.0], [-0.5, 2.0]]])
    mask = torch.tensor([[True, True, False, True]])
    label_map = losses.gaussian_label_map(keypoints, mask, 16, 16)
    assert float(label_map.sum()) == pytest.approx(0.5, abs=1e-4)
    crowd = torch.tensor([[[1.0, 1.0], [6.0, 1.0], [3.0, 5.0]]])
    soft = losses.soft_cell_classes(
        losses.gaussian_label_map(crowd, torch.ones(1, 3, dtype=torch.bool), 8, 8)
    )
    assert soft[0, [9, 14, 43, 64], 0, 0].tolist() == pytest.approx(
        [1 / 3, 1 / 3, 1 / 3, 0], abs=1e-4
    )


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_detector_loss_falls_as_logits_move_towards_the_truth(kind):
    keypoints = torch.zeros(2, 32, 40, dtype=torch.bool)
    keypoints[:, 5::9, 3::11] = True
    classes = losses.cell_classes(keypoints)
    truth = losses.soft_cell_classes(keypoints.float())
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    noise = torch.randn(2, 65, 4, 5, generator=torch.Generator().manual_seed(0))
    of = {
        'hard': lambda logits: losses.cell_cross_entropy(logits, classes, valid),
        'soft': lambda logits: losses.cell_cross_entropy(logits, truth, valid),
    }[kind]
    values = [of(noise + step * truth) for step in (0, 2, 4, 8, 40)]
    for nearer, farther in zip(values[1:], values, strict=False):
        assert (nearer < farther).all()
    assert values[-1].max() < 0.01


def test_cells_that_are_not_valid_do_not_count_whatever_they_hold():
    loss = losses.cell_cross_entropy
    logits = torch.randn(2, 65, 2, 3, generator=torch.Generator().manual_seed(0))
    truth = losses.soft_cell_classes(torch.zeros(2, 16, 24))
    valid = torch.ones(2, 2, 3, dtype=torch.bool)
    valid[0, 1] = valid[1] = False
    expected = loss(logits[:1, :, :1], truth[:1, :, :1], valid[:1, :1])
    logits[0, :, 1] = torch.nan
    logits.requires_grad_()
    found = loss(logits, truth, valid)
    found.sum().backward()
    torch.testing.assert_close(found, torch.cat([expected, torch.zeros(1)]))
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :, 1] == 0).all() and (logits.grad[1] == 0).all()


def test_gradients_of_the_detector_loss_are_right_in_double_precision():
    logits = torch.randn(2, 65, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    keypoints = torch.zeros(2, 8, 16, dtype=torch.bool)
    keypoints[0, 3, 3] = True
    hard = losses.cell_classes(keypoints)
    soft = losses.soft_cell_classes(0.7 * keypoints.double())
    valid = torch.tensor([[[True, False]], [[True, True]]])
    logits.requires_grad_()
    for classes in (hard, soft):
        assert torch.autograd.gradcheck(
            lambda x, c=classes: losses.cell_cross_entropy(x, c, valid), (logits,)
        )


IDENTITY = torch.eye(3)[None]
MOVED = torch.tensor([[[1.0, 0, 16], [0, 1, 8], [0, 0, 1]]])
SCALINGS = pytest.mark.parametrize('scaling', [losses.PAPER, losses.NORMALIZED])


@pytest.fixture
def golden(reference):
    return np.load(reference / 'golden/superpoint_losses_tf.npz')


def homographies(golden):
    """Return H_0to1 of the golden file, which has eight numbers from image 1 back to image 0."""
    inverse = np.concatenate([golden['H8'], np.ones((2, 1))], 1).reshape(2, 3, 3)
    return torch.from_numpy(np.linalg.inv(inverse)).float()


def maps(golden, name):
    return torch.from_numpy(golden[name]).permute(0, 3, 1, 2)


def random_maps(dim=16, rows=5, columns=6, batch=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return normalize(
        torch.randn(batch, dim, rows, columns, generator=generator, dtype=dtype), dim=1
    )


def shifted(descriptors, columns, rows):
    """Move maps by whole cells; what enters is new."""
    fresh = random_maps(descriptors.shape[1], *descriptors.shape[2:], len(descriptors), seed=9)
    fresh = fresh.to(descriptors.dtype)
    fresh[:, :, rows:, columns:] = descriptors[:, :, : -rows or None, : -columns or None]
    return fresh


def all_valid(descriptors):
    return torch.ones(len(descriptors), *descriptors.shape[2:], dtype=torch.bool)


def draw(H, valid, seed=0, **options):
    return losses.sample_sparse_pairs(H, valid, torch.Generator().manual_seed(seed), **options)


def draw_points(H, valid0, valid1, seed=0):
    return losses.sample_point_pairs(H, valid0, valid1, torch.Generator().manual_seed(seed))


def hinge(scaling):
    return lambda a, b, H, valid: losses.descriptor_hinge(a, b, H, valid, scaling)


def sparse(a, b, H, valid):
    return losses.sparse_descriptor_hinge(a, b, draw(H, valid))


def softmax(a, b, H, valid):
    return losses.point_softmax(a, b, draw_points(H, valid, valid), 0.1)


# every loss of descriptors (a, b, H_0to1, valid), and how much more noise costs than partners
LOSSES = {
    'paper': (hinge(losses.PAPER), 1.05),
    'normalized': (hinge(losses.NORMALIZED), 1.05),
    'sparse': (sparse, 5),
    'softmax': (softmax, 5),
}


@pytest.mark.parametrize('name', LOSSES)
def test_losses_fall_as_descriptors_move_towards_their_partners(name):
    loss, ratio = LOSSES[name]
    first = random_maps(32, 12, 16)
    partner = shifted(first, columns=2, rows=1)  # 16 pixels to the right, 8 down: MOVED
    noise = random_maps(32, 12, 16, seed=2)
    values = [
        float(loss(first, normalize(m, dim=1), MOVED, all_valid(first)))
        for m in (noise, noise + 0.5 * partner, noise + 2 * partner, partner)
    ]
    assert values == sorted(values, reverse=True) and values[0] > ratio * values[-1]
    assert values[-1] < float(loss(first, partner, torch.linalg.inv(MOVED), all_valid(first)))


@pytest.mark.parametrize('name', LOSSES)
def test_masked_and_blind_pairs_cost_nothing_or_stay_finite(name):
    inputs = [random_maps(batch=3, seed=seed).requires_grad_() for seed in (0, 1)]
    valid = all_valid(inputs[0])
    valid[0] = False
    behind = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.05, 0, 1]])  # beyond x = 20: NaN
    far = torch.tensor([[1.0, 0, 1e4], [0, 1, 0], [0, 0, 1]])
    loss = LOSSES[name][0](*inputs, torch.stack([torch.eye(3), far, behind]), valid)
    loss.sum().backward()
    assert loss[0] == 0 and loss[2] > 0 and loss.isfinite().all()
    assert loss[1] == 0 or name in ('paper', 'normalized')  # these push cells that do not match
    assert all(value.grad.isfinite().all() for value in inputs)


@pytest.mark.parametrize('name', ['paper', 'normalized', 'sparse'])
def test_gradients_are_right_in_double_precision(name):
    inputs = [random_maps(3, 3, 3, seed=s, dtype=torch.float64).requires_grad_() for s in (0, 1)]
    tilted = torch.tensor([[[1.0, 0.1, 2.5], [-0.1, 1.0, 3.1], [0, 0, 1]]]).double()
    valid = all_valid(inputs[0])
    valid[0, 0, 0] = False

    def loss(a, b):
        return LOSSES[name][0](normalize(a, dim=1), normalize(b, dim=1), tilted, valid)

    assert loss(*inputs) > 0
    assert torch.autograd.gradcheck(loss, inputs)


def test_homographies_of_the_official_code_are_the_inverse_of_ours(golden):
    points = torch.from_numpy(golden['warp_pts_in_yx']).flip(1).float()
    found = warp_points(points.expand(2, -1, -1), homographies(golden)).flip(2)
    np.testing.assert_allclose(found.numpy(), golden['warp_pts_out_yx'], atol=1e-4)


@pytest.mark.parametrize('chunk', [2**24, 100])
def test_descriptor_loss_is_that_of_the_official_code(golden, chunk, monkeypatch):
    monkeypatch.setattr(losses, 'CHUNK_FLOATS', chunk)
    valid = losses.valid_cells(torch.from_numpy(golden['valid']) > 0)
    descriptors = [normalize(maps(golden, name), dim=1) for name in ('desc', 'desc_w')]
    loss = losses.descriptor_hinge(*descriptors, homographies(golden), valid, center=4.0)
    cells = valid.sum((1, 2))
    mean = (loss * cells).sum() / cells.sum()
    assert float(mean) == pytest.approx(float(golden['desc_loss_lambda0p05']), rel=1e-5)


@SCALINGS
def test_descriptor_loss_is_that_of_a_loop_over_cells(scaling):
    first, second = random_maps(rows=3, columns=4), random_maps(rows=3, columns=4, seed=1)
    valid = all_valid(first)
    valid[0, 1, 2] = False
    loss = float(losses.descriptor_hinge(first, second, MOVED, valid, scaling))
    a, b = first[0].flatten(1).T.double(), second[0].flatten(1).T.double()
    dot = a @ b.T
    if scaling.normalize:
        dot = dot.clamp(min=0)
        dot = dot / dot.norm(dim=1, keepdim=True)
        dot = dot / dot.norm(dim=0, keepdim=True)
    total = 0
    for i in range(12):
        for j in range(12):
            if j == 6:
                continue
            dx, dy = 8 * (i % 4) + 16 - 8 * (j % 4), 8 * (i // 4) + 8 - 8 * (j // 4)
            same = (dx**2 + dy**2) ** 0.5 <= scaling.radius_px
            pull = scaling.positive_weight * max(0, 1 - float(dot[i, j]))
            total += pull if same else max(0, float(dot[i, j]) - 0.2)
    assert loss == pytest.approx(total / (12 * 11), rel=1e-5)


@SCALINGS
def test_descent_lowers_the_descriptor_loss(scaling):
    free, second = random_maps(16, 6, 6), random_maps(16, 6, 6, seed=1)

    def loss(maps):
        return hinge(scaling)(normalize(maps, dim=1), second, IDENTITY, all_valid(second)).sum()

    values = descend(loss, free, 0.05, 60, relative=True)
    assert values[-1] < 0.9 * values[0]


def test_cell_centers_lie_between_the_fourth_and_fifth_pixel():
    centers = [[3.5, 3.5], [11.5, 3.5], [3.5, 11.5], [11.5, 11.5]]
    assert losses.cell_centers(2, 2).tolist() == centers
    # so that a half turn about the center of the image takes centers to centers
    turn = torch.tensor([[[-1.0, 0, 15], [0, -1, 15], [0, 0, 1]]])
    turned = warp_points(losses.cell_centers(2, 2)[None], turn)
    assert torch.equal(turned[0], losses.cell_centers(2, 2).flip(0))


@SCALINGS
def test_chunks_give_the_same_loss_and_gradient(scaling, monkeypatch):
    results = []
    for chunk in (2**24, 2000, 1):
        monkeypatch.setattr(losses, 'CHUNK_FLOATS', chunk)
        inputs = [random_maps(batch=3, seed=seed).requires_grad_() for seed in (0, 1)]
        valid = all_valid(inputs[0])
        valid[1, :2] = False
        loss = losses.descriptor_hinge(*inputs, MOVED.repeat(3, 1, 1), valid, scaling)
        results.append([loss, *torch.autograd.grad(loss.sum(), inputs)])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_memory_for_the_backward_pass_does_not_grow_with_the_similarities(monkeypatch):
    monkeypatch.setattr(losses, 'CHUNK_FLOATS', 300**2)
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    first, second = random_maps(8, 15, 20, batch=6).requires_grad_(), random_maps(8, 15, 20, 6)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses.descriptor_hinge(first, second, MOVED.repeat(6, 1, 1), all_valid(first))
    assert kept < 6 * 300**2  # less than the similarities once


def test_no_similarity_at_all_gives_no_nan_when_normalized():
    first = random_maps().requires_grad_()
    loss = losses.descriptor_hinge(first, torch.zeros_like(first), IDENTITY, all_valid(first))
    loss.sum().backward()
    assert loss.isfinite().all() and first.grad.isfinite().all()


def test_sparse_pairs_match_and_the_others_do_not():
    turned = torch.tensor([[[0.9, -0.3, 20.0], [0.3, 0.9, -10.0], [5e-4, 0, 1.0]]])
    valid = torch.ones(1, 12, 16, dtype=torch.bool)
    valid[0, 3:5] = False
    pairs = draw(turned, valid, positives=100, negatives=20)
    centers = losses.cell_centers(12, 16)
    assert pairs.cells0.shape == (1, 100) and pairs.others1.shape == (1, 100, 20)
    assert pairs.cells0[pairs.mask].unique().numel() == pairs.mask.sum() > 60
    there = warp_points(centers[pairs.cells0[0]][None], turned)[0]
    places = pairs.places1[0] * 8 + 3.5
    torch.testing.assert_close(places[pairs.mask[0]], there[pairs.mask[0]])
    nearest = pairs.places1[pairs.mask].round()
    assert not ((nearest[:, 1] >= 3) & (nearest[:, 1] < 5)).any()
    assert (nearest >= 0).all() and (nearest < torch.tensor([16, 12])).all()
    others = centers[pairs.others1[0]]
    apart = (others - there[:, None]).norm(dim=-1)
    assert (apart[pairs.counted[0]] > 8).all()
    assert valid.flatten()[pairs.others1[pairs.counted]].all()
    assert pairs.counted[pairs.mask].float().mean() > 0.7
    assert not pairs.counted[~pairs.mask].any()


def test_sparse_pairs_are_those_of_the_generator():
    valid = torch.ones(1, 12, 16, dtype=torch.bool)
    first, again, other = (draw(MOVED, valid, seed, positives=50) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.cells0, other.cells0)


def test_sparse_loss_of_true_partners_is_only_that_of_what_does_not_match():
    first = random_maps(32, 12, 16)
    pairs = draw(MOVED, all_valid(first))
    loss = losses.sparse_descriptor_hinge(first, shifted(first, 2, 1), pairs, positive_weight=1e4)
    cosine = first[0].flatten(1).T @ shifted(first, 2, 1)[0].flatten(1)
    pushed = cosine[pairs.cells0[0][:, None], pairs.others1[0]][pairs.counted[0]]
    assert float(loss) == pytest.approx(float((pushed - 0.2).clamp(min=0).mean()), abs=1e-2)


@pytest.mark.parametrize('shape', [(2, 4, 0, 3), (0, 4, 2, 3)])
def test_no_cells_and_no_pairs_cost_nothing(shape):
    inputs = [torch.zeros(shape, requires_grad=True) for _ in range(2)]
    H, valid = IDENTITY.repeat(shape[0], 1, 1), torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    found = [
        losses.descriptor_hinge(*inputs, H, valid, s) for s in (losses.PAPER, losses.NORMALIZED)
    ]
    if shape[2]:  # there is nothing to draw from no cells
        found.append(losses.sparse_descriptor_hinge(*inputs, draw(H, valid)))
    for loss in found:
        loss.sum().backward()
        assert loss.tolist() == [0] * shape[0]


def test_points_lie_in_their_cells_and_fall_where_the_homography_takes_them():
    turned = torch.tensor([[[0.9, -0.3, 20.0], [0.3, 0.9, -10.0], [5e-4, 0, 1.0]]])
    valid0, valid1 = torch.ones(2, 1, 12, 16, dtype=torch.bool)
    valid0[0, 0] = False
    valid1[0, 3:5] = False
    pairs = draw_points(turned, valid0, valid1)
    shift = pairs.points0[0] - losses.cell_centers(12, 16)
    assert 3.5 < shift.abs().max() <= 4 and shift.mean(0).abs().max() < 1
    seen, there = pairs.mask[0], warp_points(pairs.points0, turned)[0]
    torch.testing.assert_close(pairs.points1[0, seen], there[seen])
    rows = (pairs.points1[0, seen, 1] / 8 - 0.4375).round()
    assert seen.sum() > 60 and not seen[:16].any() and not ((rows == 3) | (rows == 4)).any()
    outside = (there < -0.5) | (there > torch.tensor([127.5, 95.5]))
    assert outside.any() and not seen[outside.any(1)].any()


def test_softmax_over_points_reads_descriptors_where_extraction_does():
    extractor = build_extractor('superpoint')
    first, valid = random_maps(256, 12, 16), torch.ones(1, 12, 16, dtype=torch.bool)
    pairs = draw_points(IDENTITY, valid, valid)
    maps = DenseMaps(torch.zeros(1, 96, 128), (first,))
    read = extractor.describe(maps, Keypoints.at(pairs.points0))[pairs.mask]
    apart = torch.cdist(pairs.points0[pairs.mask], pairs.points0[pairs.mask], p=torch.inf)
    own = torch.eye(len(read), dtype=torch.bool)
    logits = (read @ read.T / 0.1).masked_fill((apart <= 8) & ~own, -torch.inf)
    wanted = (logits.logsumexp(1) - logits.diagonal()).mean()
    torch.testing.assert_close(losses.point_softmax(first, first, pairs, 0.1)[0], wanted)
