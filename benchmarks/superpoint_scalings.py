"""
Which scaling of SuperPoint's descriptor loss teaches descriptors, from random weights.

    python benchmarks/superpoint_scalings.py PHOTOGRAPHS --out benchmarks/results/scalings.jsonl

Every kind of `descriptor_loss` trains the same network on the same pairs: same start, same views,
same light, same labels (corners by OpenCV, so that no model is needed), same optimizer; only the
loss of the descriptors and its weight differ. Few photographs, so that minutes show whether it
learns: it is measured on other views of the same ones. `nearest` is the share of cells of view 0
whose most similar cell of view 1 is one that matches it (centres within 8 px), also after each
quarter of the steps; beside it stand the mean cosine of true partners and of all others, and the
share of chance.
"""

import json
from pathlib import Path
import statistics
import time
from typing import Annotated, Any

from common import provenance
import cv2
from kpfeat_core.data.image_folder import ImageBank, load_bank
from kpfeat_core.data.labelled import LabelledBank, LabelledPairs
from kpfeat_core.geometry import warp_points
from kpfeat_core.image import find_images
from kpfeat_core.io import unpacked
from kpfeat_core.losses.superpoint import cell_centres, valid_cells
from kpfeat_core.training.magicpoint import read_heads
from kpfeat_core.training.options import Options
from kpfeat_core.training.superpoint import SCALINGS, SOFTMAX, SPARSE, SuperPointRecipe
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch
import torch.nn.functional as F
import typer

RADIUS_PX = 8.0
CORNERS = 100  # labels of a photograph
QUARTERS = 4  # of a run, after each of which it is measured
# Views that differ less than the published ones, which turn by any angle: what takes a network
# hours with those shows within minutes here.
VIEWS = {
    'homographies': 'camera',
    'rotation_deg': 8.0,
    'any_rotation': 0.0,
    'max_zoom': 1.2,
    'max_tilt': 1.2,
    'perspective': 0.15,
    'shift': 0.2,
}
console = Console()


def label_corners(bank: ImageBank) -> LabelledBank:
    """Label photographs with the corners that OpenCV finds."""
    rows = []
    for image, size in zip(bank.levels[0], bank.sizes.long().tolist(), strict=True):
        shown = image[:, : size[1], : size[0]].permute(1, 2, 0).contiguous().numpy()
        gray = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
        found = cv2.goodFeaturesToTrack(gray, CORNERS, 0.05, 6)
        rows.append(torch.zeros(0, 2) if found is None else torch.from_numpy(found).view(-1, 2))
    counts = torch.tensor([len(row) for row in rows])
    return LabelledBank(bank, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), counts)


@torch.no_grad()
def measure(recipe: SuperPointRecipe, batch: LabelledPairs) -> dict[str, float]:
    """Return how well the descriptors of cells tell their partners, on average over a batch."""
    # with the statistics of this batch: the running ones lag behind for a hundred steps
    _, raw = read_heads(recipe.extractor, batch.images.flatten(0, 1))
    first, second = F.normalize(raw.float(), dim=1).unflatten(0, (2, -1)).flatten(3)
    centres = cell_centres(*raw.shape[2:], raw.device)
    warped = warp_points(centres.expand(len(batch), -1, -1), batch.H_0to1)
    valid = valid_cells(batch.valid[1]).flatten(1)[:, None]
    same = ((warped[:, :, None] - centres).norm(dim=-1) <= RADIUS_PX) & valid
    cosine = first.mT @ second
    nearest = cosine.masked_fill(~valid, -2).argmax(2, keepdim=True)
    known = same.any(2)
    others = valid & ~same
    return {
        'nearest': same.gather(2, nearest)[..., 0][known].float().mean().item(),
        'chance': (same.sum(2) / valid.sum(2))[known].mean().item(),
        'cosine_same': cosine[same].mean().item(),
        'cosine_other': cosine[others.expand_as(cosine)].mean().item(),
    }


def train(
    kind: str,
    seed: int,
    steps: int,
    rate: float,
    material: LabelledBank,
    options: Options,
) -> dict[str, Any]:
    """Train with one kind of loss and measure on other views."""
    torch.manual_seed(seed)
    place = material.counts.device
    recipe = SuperPointRecipe(SuperPointRecipe.build('superpoint', options), options.loss)
    recipe = recipe.to(place, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(recipe.parameters(), rate)
    others = SuperPointRecipe.draw(
        material, 24, options, torch.Generator(place).manual_seed(10**6)
    )
    begun, parts, curve = time.perf_counter(), {}, []
    for step in track(range(steps), f'{kind}, seed {seed}', console=console, transient=True):
        for group in optimizer.param_groups:  # falls to a tenth, so that the end is not noise
            group['lr'] = rate * 0.1 ** max(0.0, 4 * step / steps - 3)
        generator = torch.Generator(place).manual_seed(1000 * seed + step)
        batch = SuperPointRecipe.draw(material, options.train.batch_size, options, generator)
        parts = recipe(batch, generator)
        optimizer.zero_grad()
        parts['total'].backward()
        optimizer.step()
        if (step + 1) % max(1, steps // QUARTERS) == 0:
            curve.append(round(measure(recipe, others)['nearest'], 4))
    last = {name: float(parts[name].detach()) for name in ('detector', 'descriptor')}
    seconds = time.perf_counter() - begun
    return measure(recipe, others) | last | {'seconds': seconds, 'curve': curve}


def main(
    photographs: Annotated[Path, typer.Argument(help='a folder, or a .zip of one')],
    steps: Annotated[int, typer.Option(min=1)] = 200,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    view_size: Annotated[int, typer.Option(min=64, help='a multiple of 8')] = 128,
    batch_size: Annotated[int, typer.Option(min=1)] = 2,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-3,
    images: Annotated[int, typer.Option(min=2, help='photographs, evenly chosen')] = 8,
    device: Annotated[str, typer.Option(help='cpu or cuda')] = 'cpu',
    threads: Annotated[int, typer.Option(min=1)] = 1,
    kinds: Annotated[str, typer.Option(help='kinds of loss')] = ','.join(
        [*SCALINGS, SPARSE, SOFTMAX]
    ),
    load: Annotated[str, typer.Option(help='what else ran, noted in the results')] = '',
    out: Annotated[Path | None, typer.Option(help='append JSON lines to this file')] = None,
) -> None:
    """Train with every kind of loss from several seeds, and print what each has learnt."""
    torch.set_num_threads(threads)
    shape = {'view_size': view_size, 'bank_side': 2 * view_size, 'batch_size': batch_size}
    with unpacked(photographs) as folder:
        paths = find_images(folder)
        chosen = paths[:: max(1, len(paths) // images)][:images]
        material = label_corners(load_bank(chosen, shape['bank_side'])).to(device)
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds.split(',')}
    for seed in range(seeds):
        for kind in rows:
            values = {**SuperPointRecipe.defaults, **VIEWS, **shape, 'descriptor_loss': kind}
            options = Options.build(values, SuperPointRecipe.loss_class)
            row = train(kind, seed, steps, learning_rate, material, options)
            rows[kind].append(row)
            if out is not None:
                write(out, kind, seed, row, {**shape, 'steps': steps, 'load': load})
    show(rows)


def show(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Print the means over the seeds."""
    table = Table('loss', 'nearest', 'lowest to highest', 'cosine same / other', 'detector')
    for kind, found in rows.items():
        mean = {
            name: statistics.mean(row[name] for row in found)
            for name in found[0]
            if name != 'curve'
        }
        nearest = [row['nearest'] for row in found]
        table.add_row(
            kind,
            f'{mean["nearest"]:.3f}',
            f'{min(nearest):.3f} to {max(nearest):.3f}',
            f'{mean["cosine_same"]:.3f} / {mean["cosine_other"]:.3f}',
            f'{mean["detector"]:.2f}',
        )
    console.print(table)
    console.print(f'chance is {mean["chance"]:.3f}')


def write(out: Path, kind: str, seed: int, row: dict[str, Any], setting: dict[str, Any]) -> None:
    """Append one result."""
    result = {
        'benchmark': 'superpoint_scalings',
        'descriptor_loss': kind,
        'seed': seed,
        **{k: v if k == 'curve' else round(v, 4) for k, v in row.items()},
        **setting,
        **provenance(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open('a', encoding='utf-8') as file:
        file.write(json.dumps(result) + '\n')


if __name__ == '__main__':
    typer.run(main)
