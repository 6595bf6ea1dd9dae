"""ASLFeat's scores, edge test and refinement, on maps that can be checked by hand."""

from kpfeat_core.models import aslfeat as aslfeat_scores
from kpfeat_core.models.aslfeat import enlarge, off_edges, peakiness, refine_newton
import pytest
import torch
import torch.nn.functional as F


def parabola(x: float, y: float, bend: float = 0.01, cross: float = 0.004) -> torch.Tensor:
    """Return scores (1, 21, 21) with one maximum at (x, y)."""
    rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing='ij')
    dx, dy = columns - x, rows - y
    return (1 - bend * dx**2 - 2 * bend * dy**2 - cross * dx * dy)[None]


@pytest.mark.parametrize('dilation', [1, 2, 3])
def test_peakiness_follows_its_definition(dilation):
    maps = torch.randn(2, 5, 13, 11, generator=torch.Generator().manual_seed(0))
    y = maps / 3.0
    padded = F.pad(y, (dilation,) * 4, mode='reflect')
    mean = F.conv2d(padded, torch.full((5, 1, 3, 3), 1 / 9), dilation=dilation, groups=5)
    expected = F.softplus(y - mean) * F.softplus(y - y.mean(1, keepdim=True))
    found = peakiness(maps, torch.tensor(3.0), dilation)
    torch.testing.assert_close(found, expected.amax(1))


def test_strips_of_rows_do_not_change_the_scores(monkeypatch):
    maps = torch.randn(2, 4, 37, 20)
    whole = peakiness(maps, torch.tensor(2.0), 3)  # in one piece: gradients are on
    monkeypatch.setattr(aslfeat_scores, 'STRIP_ELEMENTS', 5 * 4 * 20 * 2)
    with torch.no_grad():
        torch.testing.assert_close(peakiness(maps, torch.tensor(2.0), 3), whole)


def test_scores_are_single_precision_whatever_the_network_computes_in():
    maps = torch.randn(1, 4, 16, 16)
    found = peakiness(maps.half(), torch.tensor(2.0).half(), 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, peakiness(maps, torch.tensor(2.0), 1), atol=1e-2, rtol=0)


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_enlarging_keeps_cell_i_at_pixel_factor_times_i(factor):
    maps = torch.rand(2, 5, 7)
    large = enlarge(maps, factor)
    assert large.shape == (2, 5 * factor, 7 * factor)
    torch.testing.assert_close(large[:, ::factor, ::factor], maps)
    ramp = enlarge(torch.arange(7.0).expand(1, 5, 7), factor)[0, 0]
    torch.testing.assert_close(ramp, (torch.arange(7.0 * factor) / factor).clamp(max=6))


def test_the_edge_test_keeps_blobs_and_drops_ridges_saddles_and_plains():
    blob, ridge, saddle = parabola(10, 10), parabola(10, 10), parabola(10, 10)
    rows = torch.arange(21.0)[None, :, None] - 10
    ridge = 1 - 0.01 * rows**2 + 0 * ridge
    saddle = saddle + 0.1 * rows**2
    assert off_edges(blob, 10.0)[0, 10, 10]
    for scores in (ridge, saddle, torch.ones(1, 21, 21)):
        assert not off_edges(scores, 10.0)[0, 10, 10]


def test_the_edge_threshold_is_the_ratio_of_the_curvatures_along_axes_and_diagonals():
    steps = torch.arange(21.0) - 10
    across, along = steps[:, None] - steps, steps[:, None] + steps
    diagonal = (1 - 0.01 * across**2 - 0.005 * along**2)[None]
    for scores in (parabola(10, 10, cross=0), diagonal):  # one bends twice as much as the other
        assert off_edges(scores, 2.1)[0, 10, 10] and not off_edges(scores, 1.9)[0, 10, 10]


def test_refinement_finds_the_top_of_a_parabola_half_a_pixel_away_at_most_in_the_image():
    middle = torch.tensor([[[10, 10]]])
    for scores, expected in (
        (parabola(10.3, 9.8), [10.3, 9.8]),
        (parabola(12.0, 10.0), [10.5, 10.0]),
        (torch.ones(1, 21, 21), [10.0, 10.0]),  # a plain has no top
    ):
        found = refine_newton(scores, middle)
        torch.testing.assert_close(found, torch.tensor([[expected]]), atol=1e-3, rtol=0)
    found = refine_newton(parabola(-5.0, 30.0), torch.tensor([[[0, 20]]]))
    assert (found >= 0).all() and (found <= 20).all()


def test_gradients_of_refinement_are_right():
    scores = parabola(10.3, 9.8)[:, 8:13, 8:13].double().requires_grad_()
    xy = torch.tensor([[[2, 2]]])
    assert torch.autograd.gradcheck(lambda s: refine_newton(s, xy), (scores,))
