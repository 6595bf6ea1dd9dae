"""SuperPoint's detector losses and labels against the official code, and their edges."""

from kpfeat_core.errors import ShapeError
from kpfeat_core.losses import superpoint as losses
import numpy as np
import pytest
import torch


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
