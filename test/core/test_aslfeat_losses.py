"""ASLFeat's losses against the official code's numbers, and their behaviour at the edges."""

from kpfeat_core.losses import aslfeat as losses
import numpy as np
import pytest
from small_runs import descend
import torch
from torch.nn.functional import normalize

TERMS = {
    'HARD_CONTRASTIVE': losses.hard_contrastive_terms,
    'HARD_TRIPLET': losses.hard_triplet_terms,
    'CIRCLE': losses.circle_terms,
}
each_loss = pytest.mark.parametrize('name', TERMS)


@pytest.fixture
def golden(reference):
    return np.load(reference / 'golden/aslfeat_losses_tf.npz')


def random_pair(count=6, dim=4, noise=0.5, apart=100.0, batch=1, dtype=torch.float64):
    """Return descriptors, positions and mask; positions lie `apart` pixels from each other."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(batch, count, dim, generator=generator, dtype=dtype)
    second = first + noise * torch.randn(batch, count, dim, generator=generator, dtype=dtype)
    positions = torch.arange(count, dtype=dtype)[None, :, None] * apart
    positions = positions.expand(batch, count, 2)
    mask = torch.ones(batch, count, dtype=torch.bool)
    return losses.Correspondences(
        normalize(first, dim=-1), normalize(second, dim=-1), positions, positions, mask
    )


@each_loss
def test_loss_is_that_of_the_official_code(golden, name):
    tensors = [torch.from_numpy(golden[key])[None] for key in ('f0', 'f1', 'pos0', 'pos1')]
    weights = torch.from_numpy(golden['w'])[None]
    mask = torch.ones_like(weights, dtype=torch.bool)
    terms = TERMS[name](losses.Correspondences(*tensors, mask), float(golden['safe_radius']))
    loss = losses.score_weighted_mean(terms, weights, torch.ones_like(weights), mask)
    assert float(loss) == pytest.approx(float(golden[name]), rel=1e-5)


@each_loss
def test_loss_falls_as_partners_approach_each_other(name):
    values = []
    for noise in (2.0, 1.0, 0.5, 0.0):
        pair = random_pair(count=40, dim=16, noise=noise)
        values.append(float(TERMS[name](pair).mean()))
    assert values == sorted(values, reverse=True) and values[0] > 1.5 * values[-1]


@each_loss
def test_descent_lowers_the_loss(name):
    first, *rest = random_pair(count=10, noise=2.0)

    def loss(free):
        return TERMS[name](losses.Correspondences(normalize(free, dim=-1), *rest)).mean()

    values = descend(loss, first, 1.0, 80)
    assert values[-1] < 0.6 * values[0]


@each_loss
def test_neighbors_within_the_safe_radius_are_no_negatives(name):
    # all descriptors nearly alike: every negative is as hard as can be
    same = normalize(torch.ones(1, 2, 4) + 0.05 * torch.eye(2, 4), dim=-1)
    mask = torch.ones(1, 2, dtype=torch.bool)
    for apart, low, high in ((11.9, 0.0, 0.01), (12.1, 0.3, 1.1)):
        positions = torch.tensor([[[0.0, 0.0], [apart, 0.0]]])
        terms = TERMS[name](losses.Correspondences(same, same, positions, positions, mask), 12.0)
        assert low <= terms.min() and terms.max() <= high


def test_each_view_has_its_own_safe_radius():
    same = normalize(torch.ones(1, 2, 4) + 0.05 * torch.eye(2, 4), dim=-1)
    mask = torch.ones(1, 2, dtype=torch.bool)
    near, far = torch.tensor([[[0.0, 0.0], [5.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [50.0, 0.0]]])
    terms = [
        losses.hard_triplet_terms(losses.Correspondences(same, same, a, b, mask)).mean().item()
        for a, b in ((near, near), (near, far), (far, near), (far, far))
    ]
    assert terms[0] == 0
    assert terms[1] == pytest.approx(terms[3] / 2) and terms[2] == pytest.approx(terms[3] / 2)


def test_scores_fall_where_the_term_is_high_and_rise_where_it_is_low():
    terms = torch.tensor([[0.1, 0.9]])
    scores = torch.full((1, 2), 0.5, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = losses.score_weighted_mean(terms, scores, scores.detach(), mask)
    assert float(loss.detach()) == pytest.approx(0.5, rel=1e-4)
    loss.sum().backward()
    assert scores.grad[0, 0] < 0 < scores.grad[0, 1]


@each_loss
def test_padding_changes_nothing(name):
    pair = random_pair(count=8, noise=1.0, batch=2, apart=9.0)
    mask = pair[-1].clone()
    mask[:, 5:] = False
    terms = TERMS[name](pair._replace(mask=mask))
    assert (terms[:, 5:] == 0).all()
    cut = losses.Correspondences(*(value[:, :5] for value in pair))
    torch.testing.assert_close(terms[:, :5], TERMS[name](cut))


@each_loss
@pytest.mark.parametrize('count', [0, 1, 4])
def test_nothing_to_compare_costs_nothing_and_gives_no_nan(name, count):
    unknown = torch.full((2, count, 4), torch.nan, requires_grad=True)
    positions = torch.full((2, count, 2), torch.nan)
    scores = torch.full((2, count), torch.nan, requires_grad=True)
    mask = torch.zeros(2, count, dtype=torch.bool)
    terms = TERMS[name](losses.Correspondences(unknown, unknown, positions, positions, mask))
    loss = losses.score_weighted_mean(terms, scores, scores, mask)
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert unknown.grad.isfinite().all() and scores.grad.isfinite().all()


@each_loss
def test_a_lone_correspondence_has_no_negative_and_no_nan(name):
    first, *rest = random_pair(count=1)
    first.requires_grad_()
    terms = TERMS[name](losses.Correspondences(first, *rest))
    terms.sum().backward()
    assert terms.isfinite().all() and first.grad.isfinite().all()


@each_loss
def test_equal_descriptors_give_finite_gradients(name):
    first, _, *rest = random_pair(count=4)
    first.requires_grad_()
    TERMS[name](losses.Correspondences(first, first, *rest)).sum().backward()
    assert first.grad.isfinite().all()


@pytest.mark.parametrize('name', ['HARD_CONTRASTIVE', 'HARD_TRIPLET'])
def test_gradients_are_right_in_double_precision(name):
    first, second, here, there, mask = random_pair(count=4, dim=3, noise=0.8, apart=9.0)
    mask[0, 3] = False
    scores = torch.tensor([[0.3, 0.8, 0.5, 0.9]], dtype=torch.float64)

    def loss(a, b, s):
        unit = normalize(a, dim=-1), normalize(b, dim=-1)
        terms = TERMS[name](losses.Correspondences(*unit, here, there, mask))
        return losses.score_weighted_mean(terms, s, s, mask)

    inputs = [value.clone().requires_grad_() for value in (first, second, scores)]
    assert loss(*inputs) > 0
    assert torch.autograd.gradcheck(loss, inputs)


def test_gradients_of_the_circle_loss_take_its_weights_as_constants():
    first, second, here, there, mask = random_pair(count=4, dim=3, noise=0.8)
    margin, gamma = 0.1, 8.0
    cosine = first @ second.mT
    pull_weight = (1 + margin - cosine).clamp(min=0)
    push_weight = (cosine + margin).clamp(min=0)

    def by_loops(a, b):
        total = 0
        for i in range(4):
            s = a[0] @ b[0].T
            pull = gamma * pull_weight[0, i, i] * (1 - margin - s[i, i])
            for wrong in ([(i, j) for j in range(4)], [(j, i) for j in range(4)]):
                push = sum(
                    (gamma * push_weight[0][at] * (s[at] - margin)).exp()
                    for at in wrong
                    if at != (i, i)
                )
                total = total + (1 + pull.exp() * push).log() / (2 * gamma)
        return total

    inputs = first.requires_grad_(), second.requires_grad_()
    assert torch.autograd.gradcheck(by_loops, inputs)
    pairs = losses.Correspondences(*inputs, here, there, mask)
    loss = losses.circle_terms(pairs, margin=margin, gamma=gamma).sum()
    torch.testing.assert_close(loss, by_loops(*inputs))
    found, expected = (torch.autograd.grad(value, inputs) for value in (loss, by_loops(*inputs)))
    torch.testing.assert_close(found, expected)
