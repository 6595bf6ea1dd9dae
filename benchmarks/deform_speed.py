"""
Time of the deformable convolution against other ways to compute the same, and of ASLFeat.

    python benchmarks/deform_speed.py
    python benchmarks/deform_speed.py --repeats 30 --out benchmarks/results/deform.jsonl

First one layer of ASLFeat: ours; gathering the four corners of every tap; `grid_sample` for each
tap; and a plain convolution, which does not bend. Then `extract` of ASLFeat in each of its modes,
beside one network of the same weights in a straightforward way: gathered corners, dilated means by
a grouped convolution, maps in torch's own layout. All take turns. With one thread, milliseconds
are of the processor, not of the clock, and other programs matter little.
"""

from collections.abc import Callable
from contextlib import contextmanager
import json
from pathlib import Path
import statistics
import time
from typing import Annotated
from unittest import mock

from common import provenance
from kpfeat_core.benchmarking.measures import Turns
from kpfeat_core.benchmarking.systems import load_pictures
from kpfeat_core.image import image_to_tensor
from kpfeat_core.models import aslfeat, aslfeat_layers
from kpfeat_core.models.layers import deform_conv2d
from kpfeat_core.registry import build_extractor
from rich.console import Console
from rich.table import Table
import torch
from torch import Tensor
import torch.nn.functional as F
import typer

MODES = ('none', 'u', 's', 'a', 'h')
TOLERANCE = 1e-3
console = Console()


def gather_corners(
    x: Tensor, offsets: Tensor, amplitude: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Compute a deformable convolution by gathering the four corners of every tap."""
    batch, channels, height, width = x.shape
    y, x_position = positions(offsets)
    low_y, low_x = y.floor(), x_position.floor()
    flat, read = x.flatten(2), 0
    for row in (low_y, low_y + 1):
        for column in (low_x, low_x + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            share = (1 - (y - row).abs()) * (1 - (x_position - column).abs()) * inside
            index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index = index.long().flatten(1)[:, None].expand(-1, channels, -1)
            values = flat.gather(2, index).view(batch, channels, -1, height, width)
            read = read + values * (share * amplitude)[:, None]
    out = torch.einsum('bckhw,dck->bdhw', read, weight.flatten(2))
    return out if bias is None else out + bias[:, None, None]


def sample_taps(x: Tensor, offsets: Tensor, amplitude: Tensor, weight: Tensor) -> Tensor:
    """Compute a deformable convolution by one `grid_sample` and 1x1 convolution for each tap."""
    height, width = x.shape[2:]
    y, x_position = positions(offsets)
    grid = torch.stack([(2 * x_position + 1) / width, (2 * y + 1) / height], -1) - 1
    kernels = weight.flatten(2).unbind(2)
    return sum(
        F.conv2d(
            F.grid_sample(x, grid[:, tap], align_corners=False) * amplitude[:, tap : tap + 1],
            kernel[..., None, None],
        )
        for tap, kernel in enumerate(kernels)
    )


def positions(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the y and the x (B, 9, H, W) that each tap of a 3x3 kernel reads."""
    dy, dx = offsets.unflatten(1, (9, 2)).unbind(2)
    height, width = offsets.shape[2:]
    tap = torch.arange(9)[:, None, None]
    y = torch.arange(height)[:, None] + tap // 3 - 1
    return y + dy, torch.arange(width) + tap % 3 - 1 + dx


def plain_peakiness(maps: Tensor, largest: Tensor, dilation: int) -> Tensor:
    """Compute `aslfeat_scores.peakiness` by its definition."""
    y = maps / largest
    padded = F.pad(y, (dilation,) * 4, mode='reflect')
    ninths = torch.full((y.shape[1], 1, 3, 3), 1 / 9)
    mean = F.conv2d(padded, ninths, dilation=dilation, groups=y.shape[1])
    return (F.softplus(y - mean) * F.softplus(y - y.mean(1, keepdim=True))).amax(1)


@contextmanager
def straightforward():
    """Put the straightforward ways into ASLFeat."""
    with (
        mock.patch.object(aslfeat_layers, 'deform_conv2d', gather_corners),
        mock.patch.object(aslfeat, 'peakiness', plain_peakiness),
        mock.patch.object(torch, 'channels_last', torch.contiguous_format),
    ):
        yield


def layer_calls(size: tuple[int, int]) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to compute one layer of 128 channels at (width, height) / 4."""
    torch.manual_seed(0)
    width, height = (side // 4 for side in size)
    x = torch.randn(1, 128, height, width)
    offsets, weight = torch.randn(1, 18, height, width), torch.randn(128, 128, 3, 3) / 34
    amplitude = torch.rand(1, 9, height, width)
    last = x.contiguous(memory_format=torch.channels_last)
    return {
        'ours': lambda: deform_conv2d(last, offsets, amplitude, weight),
        'gathered corners': lambda: gather_corners(x, offsets, amplitude, weight),
        'grid_sample': lambda: sample_taps(x, offsets, amplitude, weight),
        'plain convolution': lambda: F.conv2d(last, weight, padding=1),
    }


def network_calls(size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return `extract` of every mode, and of one in the straightforward way."""
    picture = image_to_tensor(load_pictures('', size)[0], 1)
    torch.manual_seed(0)
    networks = {mode: build_extractor('aslfeat', deform=mode).eval() for mode in MODES}
    for network in networks.values():
        for name, parameter in network.named_parameters():
            if name.count('.') == 2:  # of what predicts shapes, which is zero at first
                torch.nn.init.normal_(parameter, std=0.02)

    def plainly() -> object:
        with straightforward():
            return networks['a'].extract(picture)

    calls = {mode: lambda net=net: net.extract(picture) for mode, net in networks.items()}
    return calls | {'a, straightforward': plainly}


def main(
    width: Annotated[int, typer.Option(min=64)] = 640,
    height: Annotated[int, typer.Option(min=64)] = 480,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    repeats: Annotated[int, typer.Option(min=1)] = 10,
    load: Annotated[str, typer.Option(help='what else ran, noted in the results')] = '',
    out: Annotated[Path | None, typer.Option(help='append JSON lines to this file')] = None,
) -> None:
    """Let all ways take turns, check that they agree, and print milliseconds."""
    torch.set_num_threads(threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    for title, calls, same in (
        ('one layer', layer_calls((width, height)), ('gathered corners', 'grid_sample')),
        ('extract', network_calls((width, height)), ()),
    ):
        turns = Turns(calls, clock)
        with torch.inference_mode():
            differences = {n: float((calls[n]() - calls['ours']()).abs().max()) for n in same}
            turns.run(repeats, warm_up=2)
        if turns.failures or max([0.0, *differences.values()]) > TOLERANCE:
            raise SystemExit(f'error: {turns.failures or differences}')
        medians = {name: statistics.median(times) for name, times in turns.times_ms.items()}
        result = {
            'benchmark': f'deform_speed, {title}',
            'image': f'{width}x{height}',
            'clock': clock.__name__,
            'median_ms': {name: round(value, 1) for name, value in medians.items()},
            'load': load,
            **provenance(),
        }
        _print(f'{title}, {width}x{height}, {threads} threads', medians)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open('a', encoding='utf-8') as file:
                file.write(json.dumps(result) + '\n')


def _print(title: str, medians: dict[str, float]) -> None:
    first = next(iter(medians.values()))
    table = Table('', 'median ms', 'of the first', title=title)
    for name, value in medians.items():
        table.add_row(name, f'{value:.1f}', f'{value / first:.2f}')
    console.print(table)


if __name__ == '__main__':
    typer.run(main)
