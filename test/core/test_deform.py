"""The deformable convolution against a loop that follows its definition."""

import math

from kpfeat_core.models import layers as deform
from kpfeat_core.models.layers import deform_conv2d
import pytest
import torch
import torch.nn.functional as F


def naive_deform_conv2d(x, offsets, amplitude, weight, bias):
    """Compute one output, tap and corner at a time."""
    batch, _, height, width = x.shape
    outputs, _, kh, kw = weight.shape
    out = bias[None, :, None, None].expand(batch, outputs, height, width).clone()
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                for tap in range(kh * kw):
                    y = i + tap // kw - kh // 2 + float(offsets[b, 2 * tap, i, j])
                    x_ = j + tap % kw - kw // 2 + float(offsets[b, 2 * tap + 1, i, j])
                    for yy in (math.floor(y), math.floor(y) + 1):
                        for xx in (math.floor(x_), math.floor(x_) + 1):
                            if 0 <= yy < height and 0 <= xx < width:
                                share = (1 - abs(y - yy)) * (1 - abs(x_ - xx))
                                value = x[b, :, yy, xx] * share * amplitude[b, tap, i, j]
                                out[b, :, i, j] += weight[:, :, tap // kw, tap % kw] @ value
    return out


def case(size=(5, 6), kernel=(3, 3), batch=2, reach=2.0, dtype=torch.float64, channels=(3, 4)):
    """Return random (x, offsets, amplitude, weight, bias)."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = channels
    taps = kernel[0] * kernel[1]

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    offsets = reach * normal(batch, 2 * taps, *size)
    amplitude = normal(batch, taps, *size).sigmoid()
    x, weight = normal(batch, inputs, *size), normal(outputs, inputs, *kernel)
    return x, offsets, amplitude, weight, normal(outputs)


@pytest.mark.parametrize('kernel', [(3, 3), (1, 1), (5, 3)])
@pytest.mark.parametrize('reach', [0.5, 3.0])
def test_it_equals_a_loop_over_outputs_taps_and_corners(kernel, reach):
    arguments = case(kernel=kernel, reach=reach)
    torch.testing.assert_close(deform_conv2d(*arguments), naive_deform_conv2d(*arguments))


def test_without_offsets_it_is_a_convolution():
    x, offsets, amplitude, weight, bias = case((9, 7))
    found = deform_conv2d(x, 0 * offsets, torch.ones_like(amplitude), weight, bias)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1))
    without_bias = deform_conv2d(x, 0 * offsets, torch.ones_like(amplitude), weight)
    torch.testing.assert_close(without_bias, F.conv2d(x, weight, padding=1))


def test_values_fall_to_zero_over_one_pixel_outside():
    x = torch.ones(1, 1, 4, 4)
    weight = torch.ones(1, 1, 1, 1)
    moves = torch.zeros(1, 2, 4, 4)
    moves[0, 0, 0, 0] = -0.25  # a quarter above the first row
    moves[0, 1, 0, 3] = 0.75
    moves[0, :, 3, 0] = torch.tensor([0.5, -0.5])
    moves[0, 0, 3, 3] = 1.0
    moves[0, 1, 1, 1] = -1e9
    found = deform_conv2d(x, moves, torch.ones(1, 1, 4, 4), weight)[0, 0]
    expected = torch.ones(4, 4)
    for (row, column), value in {(0, 0): 0.75, (0, 3): 0.25, (3, 0): 0.25}.items():
        expected[row, column] = value
    expected[3, 3] = expected[1, 1] = 0
    torch.testing.assert_close(found, expected)


def test_an_image_does_not_read_from_its_neighbours_in_the_batch():
    x, offsets, amplitude, weight, bias = case(reach=4.0)
    together = deform_conv2d(x, offsets, amplitude, weight, bias)
    for b in range(2):
        one = slice(b, b + 1)
        alone = deform_conv2d(x[one], offsets[one], amplitude[one], weight, bias)
        torch.testing.assert_close(together[one], alone)


def test_chunks_of_pixels_and_the_layout_of_the_memory_do_not_change_the_result(monkeypatch):
    x, *others = case((11, 13))
    expected = deform_conv2d(x, *others)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(deform_conv2d(last, *others), expected)
    monkeypatch.setattr(deform, 'CHUNK_ELEMENTS', 9 * 3 * 17)
    torch.testing.assert_close(deform_conv2d(x, *others), expected)


def test_gradients_of_all_arguments_are_right(monkeypatch):
    monkeypatch.setattr(deform, 'CHUNK_ELEMENTS', 9 * 2 * 5)
    arguments = case((4, 3), channels=(2, 2), reach=1.0)
    for value in arguments:
        value.requires_grad_()
    assert torch.autograd.gradcheck(deform_conv2d, arguments, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_reads_at_exact_positions(dtype):
    # a ramp of 0 and 1 in turn: at column 300 bfloat16 cannot tell neighbours apart
    x = (torch.arange(400) % 2).to(dtype).expand(1, 1, 1, 400)
    half = torch.full((1, 2, 1, 400), 0.25, dtype=dtype) * torch.tensor([0, 1])[:, None, None]
    ones = torch.ones(1, 1, 1, 1, dtype=dtype)
    found = deform_conv2d(x, half.to(dtype), ones.expand(1, 1, 1, 400), ones)
    expected = torch.where(torch.arange(399) % 2 == 1, 0.75, 0.25)
    torch.testing.assert_close(found[0, 0, 0, :399].float(), expected, atol=0.01, rtol=0)
    assert found.dtype == dtype


def test_offsets_that_are_no_numbers_do_not_read_foreign_memory():
    x, offsets, amplitude, weight, bias = case(dtype=torch.float32)
    offsets[0, 3, 2, 2] = torch.nan
    offsets[1, 5] = torch.inf
    found = deform_conv2d(x, offsets, amplitude, weight, bias)
    assert found[0, :, 2, 2].isnan().all() and found[1].isfinite().all()


@pytest.mark.unchecked
def test_it_compiles_as_one_graph():
    arguments = case(dtype=torch.float32)
    compiled = torch.compile(deform_conv2d, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), deform_conv2d(*arguments))
