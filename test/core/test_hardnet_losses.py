"""HardNet's loss against a loop over triplets, and its behaviour at the edges."""

from kpfeat_core.losses import hardnet as losses
import pytest
import torch
from torch.nn.functional import normalize


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
    anchors, values = anchors.requires_grad_(), []
    for _ in range(60):
        unit = normalize(anchors, dim=-1)
        loss = losses.hardest_in_batch_loss(unit, partners, everything(anchors)).sum()
        (gradient,) = torch.autograd.grad(loss, anchors)
        anchors = (anchors - 0.5 * gradient).detach().requires_grad_()
        values.append(loss.item())
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
def test_gradients_are_right_in_double_precision(anchor_swap):
    anchors, partners = random_pairs(count=4, dim=3, noise=0.8, dtype=torch.float64)
    mask = everything(anchors)
    mask[1, 3] = False

    def loss(a, p):
        unit = normalize(a, dim=-1), normalize(p, dim=-1)
        return losses.hardest_in_batch_loss(*unit, mask, anchor_swap=anchor_swap)

    inputs = anchors.requires_grad_(), partners.requires_grad_()
    assert loss(*inputs).min() > 0
    assert torch.autograd.gradcheck(loss, inputs)
