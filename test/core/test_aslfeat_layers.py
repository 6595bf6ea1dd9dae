"""ASLFeat's layers, plain and bent."""

from kpfeat_core.models.aslfeat_layers import (
    ConvNormRelu,
    DeformableLayer,
    DEFORMATIONS,
    homography_points,
    kernel_points,
    residual_affinities,
    rotations,
)
import pytest
import torch
import torch.nn.functional as F

CORNERS = [0, 2, 6, 8]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def bent(deform: str, **values: float) -> DeformableLayer:
    """Return a layer that bends the same way everywhere: `values` are the predictors' biases."""
    layer = DeformableLayer(3, 4, deform).double().eval()
    with torch.no_grad():
        for name, value in values.items():
            layer.get_submodule(name).bias.copy_(torch.tensor(value))
    return layer


def lived_in(layer: ConvNormRelu) -> ConvNormRelu:
    """Give a layer batch statistics that are not those of a new one."""
    layer.bn.running_mean.normal_()
    layer.bn.running_var.uniform_(0.5, 2)
    return layer.eval()


@pytest.mark.parametrize('stride', [1, 2])
def test_padding_is_that_of_tensorflow_for_even_sizes(stride):
    layer, x = lived_in(ConvNormRelu(3, 5, stride)), torch.randn(2, 3, 12, 16)
    padded = F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
    raw = F.conv2d(padded, layer.weight, stride=stride)
    torch.testing.assert_close(layer.convolve(x, layer.weight), raw)
    torch.testing.assert_close(layer(x), F.relu(layer.bn(raw)))
    layer.train()
    expected = F.relu(F.batch_norm(raw, None, None, training=True))  # of what belongs to it alone
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize('deform', DEFORMATIONS)
def test_a_new_bent_layer_is_a_plain_one_of_half_amplitude_with_its_normalisation_inside(deform):
    layer, x = lived_in(DeformableLayer(3, 4, deform)), torch.randn(2, 3, 9, 8)
    plain = F.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer.convolve(x, layer.weight), plain / 2)
    for name in layer.parts:
        torch.nn.init.normal_(layer.get_submodule(name).weight, std=0.3)
    expected = layer.activate(layer.convolve(x, layer.weight))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('deform', ['s', 'a'])
def test_an_orientation_of_90_degrees_turns_the_kernel(deform):
    layer, x = bent(deform, ori=[0, 1]), torch.randn(1, 3, 7, 7, dtype=torch.float64)
    turned = F.conv2d(x, layer.weight.rot90(-1, (2, 3)), padding=1) / 2  # x goes to y
    torch.testing.assert_close(layer.convolve(x, layer.weight), turned)


def test_offsets_are_the_bent_taps_minus_the_taps_with_y_first():
    values = {'ori': [0.6, -0.8], 'scale': [0.3], 'aff': [0.2, -0.4, 0.1]}
    layer = bent('a', **values)
    offsets, amplitude = layer.predict_offsets(torch.zeros(1, 3, 2, 2, dtype=torch.float64))
    A = rotations(torch.tensor(values['ori'])) * torch.tensor(0.3).tanh().exp()
    A = A @ residual_affinities(torch.tensor(values['aff']))
    expected = (kernel_points(A) @ A - kernel_points(A)).flip(-1).flatten()
    torch.testing.assert_close(offsets[0, :, 1, 0].float(), expected)
    assert (amplitude == 0.5).all()


def test_the_residual_affinity_is_triangular_keeps_areas_and_begins_as_identity():
    torch.testing.assert_close(residual_affinities(torch.zeros(3)), torch.eye(2))
    A = residual_affinities(torch.randn(50, 3, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(A), torch.ones(50, dtype=torch.float64))
    assert not A[:, 0, 1].any() and A[:, 1, 0].abs().min() > 0
    assert residual_affinities(torch.tensor([-100.0, 0, 100])).isfinite().all()
    # the shape divided by the root of its area
    values = torch.tensor([0.5, -0.8, -0.3], dtype=torch.float64)
    a, b, d = (values.tanh() + torch.tensor([1, 0, 1])).tolist()
    root = (a * d) ** 0.5
    expected = torch.tensor([[a / root, 0], [b / root, root / a]], dtype=torch.float64)
    torch.testing.assert_close(residual_affinities(values), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('deform', DEFORMATIONS)
def test_the_shape_of_kernels_is_computed_in_single_precision(deform, dtype):
    layer = DeformableLayer(3, 4, deform).to(dtype)
    offsets, amplitude = layer.predict_offsets(torch.randn(1, 3, 5, 6, dtype=dtype))
    assert offsets.dtype == amplitude.dtype == torch.float32


def direct_linear_transform(corners, scale):
    """Solve the 8 equations in 6 unknowns of one homography, and move the taps with it."""
    grid = kernel_points(corners)
    rows, right = [], []
    for (X, Y), (u, v) in zip(grid[CORNERS], corners.view(4, 2) + grid[CORNERS], strict=True):
        zero = X * 0
        rows += [torch.stack([zero, zero, -X, -Y, v * X, v * Y])]
        rows += [torch.stack([X, Y, zero, zero, -u * X, -u * Y])]
        right += [-v, u]
    h1, h2, h4, h5, h7, h8 = torch.linalg.lstsq(torch.stack(rows), torch.stack(right)).solution
    zero, one = h1 * 0, h1 * 0 + 1
    parts = [h1 * scale, h2 * scale, zero, h4 * scale, h5 * scale, zero, h7, h8, one]
    moved = F.pad(grid, (0, 1), value=1.0) @ torch.stack(parts).view(3, 3).T
    return (moved[:, :2] / moved[:, 2:]).clamp(-10, 10)


def test_homographies_are_the_least_squares_solution_of_the_direct_linear_transform():
    corners = 0.95 * torch.randn(40, 8, dtype=torch.float64).tanh()
    scale = torch.rand(40, 1, 1, dtype=torch.float64) + 0.5
    found = homography_points(corners, scale)
    for one, factor, moved in zip(corners, scale.flatten(), found, strict=True):
        torch.testing.assert_close(moved, direct_linear_transform(one, factor))


def test_a_homography_without_translation_is_recovered_from_its_corners():
    H = torch.tensor([[1.1, 0.2, 0], [-0.1, 0.9, 0], [0.05, -0.1, 1]], dtype=torch.float64)
    grid = kernel_points(H)
    moved = F.pad(grid, (0, 1), value=1.0) @ H.T
    moved = moved[:, :2] / moved[:, 2:]
    corners = (moved - grid)[CORNERS].flatten()
    torch.testing.assert_close(homography_points(corners, H.new_ones(1, 1)), moved)


def test_gradients_of_homographies_are_right_and_finite_at_the_most_extreme_corners():
    corners = (0.3 * torch.randn(3, 8, dtype=torch.float64)).requires_grad_()
    scale = torch.rand(3, 1, 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(homography_points, (corners, scale))
    signs = torch.cartesian_prod(*[torch.tensor([-0.95, 0.95])] * 8).requires_grad_()
    moved = homography_points(signs, torch.ones(1, 1))
    moved.sum().backward()
    assert moved.isfinite().all() and moved.abs().max() <= 10
    assert signs.grad.isfinite().all()


def test_an_unknown_way_to_bend_is_our_own_mistake():
    with pytest.raises(KeyError):
        DeformableLayer(3, 4, 'x')
