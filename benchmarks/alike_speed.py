"""
Time of `extract` against the dense way, and against OpenCV's SIFT and ORB, in one run.

    python benchmarks/alike_speed.py
    python benchmarks/alike_speed.py --model alike-n --weights FILE --out results/speed.jsonl

All methods take turns on the same picture, so that a busy machine slows all of them alike; still,
quote only numbers from idle cores. The time runs from an image in memory to features. `kpfeat
bench` compares every system, and more than time; this compares ALIKE with the dense way.
"""

from collections.abc import Callable
import json
from pathlib import Path
import statistics
import sys
from typing import Annotated

from common import provenance
import cv2
from dense_alike import extract_densely
from kpfeat_core.benchmarking.run import Turns
from kpfeat_core.benchmarking.systems import build_system, load_pictures, SystemSpec
from kpfeat_core.errors import KpfeatError
from kpfeat_core.evaluation import OpencvExtractor
from kpfeat_core.features import Features
from kpfeat_core.image import image_to_tensor
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch
import typer

TOLERANCE = 1e-4
WARM_UP = 3
console = Console()


def largest_differences(ours: Features, dense: Features) -> dict[str, float]:
    """
    Return the largest difference of keypoints (px), scores and descriptors between two results.

    Keypoints are paired by position: equal scores may change places. A keypoint within the
    tolerance of the lowest score may be in one set only, since rounding decides there.
    """
    a, b = ours.numpy(), dense.numpy()
    distance = np.linalg.norm(a['keypoints'][:, None] - b['keypoints'][None], axis=2)
    nearest = distance.argmin(1)
    floor = max(a['keypoint_scores'].min(), b['keypoint_scores'].min()) + TOLERANCE
    paired = (distance.min(1) < 0.5) | (a['keypoint_scores'] > floor)
    unpaired = (distance.min(0) >= 0.5) & (b['keypoint_scores'] > floor)
    if unpaired.any():
        raise SystemExit(f'{unpaired.sum()} keypoints of the dense way were not found')
    rows = nearest[paired]

    def largest(name: str) -> float:
        return float(np.abs(a[name][paired] - b[name][rows]).max())

    return {
        'keypoints_px': float(distance.min(1)[paired].max()),
        'scores': largest('keypoint_scores'),
        'descriptors': largest('descriptors'),
    }


def time_in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the sorted times in ms of each call; the calls take turns."""
    turns = Turns(calls)
    steps = iter(track(range((rounds + WARM_UP) * len(calls)), 'timing', transient=True))
    turns.run(rounds, WARM_UP, tick=lambda: next(steps, None))
    if turns.failures:
        raise SystemExit(f'error: {turns.failures}')
    return {name: sorted(values) for name, values in turns.times_ms.items()}


def main(
    model: Annotated[str, typer.Option(help='an ALIKE model')] = 'alike-t',
    weights: Annotated[str, typer.Option(help='weight file; default: bundled')] = '',
    image: Annotated[Path | None, typer.Option(help='picture; default: a drawing')] = None,
    width: Annotated[int, typer.Option(min=32)] = 640,
    height: Annotated[int, typer.Option(min=32)] = 480,
    keypoints: Annotated[int, typer.Option(min=1)] = 1024,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    repeats: Annotated[int, typer.Option(min=1)] = 30,
    load: Annotated[str, typer.Option(help='what else ran, noted in the results')] = '',
    out: Annotated[Path | None, typer.Option(help='append a JSON line to this file')] = None,
) -> None:
    """Compare speed and output of the fast and the dense way."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    picture = load_pictures(image or '', (width, height))[0]
    system = build_system(SystemSpec(model, weights, options={'max_num_keypoints': keypoints}))
    extractor = system.network
    tensor = image_to_tensor(picture)
    ours, dense = extractor.extract(picture), extract_densely(extractor, tensor)
    differences = largest_differences(ours, dense)
    sift, orb = OpencvExtractor('sift', keypoints), OpencvExtractor('orb', keypoints)
    calls = {
        model: lambda: extractor.extract(picture),
        f'{model}, dense': lambda: extract_densely(extractor, tensor),
        'OpenCV SIFT': lambda: sift.detect_and_compute(picture),
        'OpenCV ORB': lambda: orb.detect_and_compute(picture),
    }
    times = time_in_turns(calls, repeats)
    result = {
        'benchmark': 'alike_speed',
        'model': model,
        'weights': system.weights,
        'image': f'{width}x{height}',
        'keypoints': ours.count(),
        'median_ms': {name: round(statistics.median(ms), 2) for name, ms in times.items()},
        'p95_ms': {name: round(ms[int(0.95 * (len(ms) - 1))], 2) for name, ms in times.items()},
        'dense_over_ours': round(_ratio(times[f'{model}, dense'], times[model]), 2),
        'largest_differences': differences,
        'load': load,
        **provenance(),
    }
    _print(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open('a', encoding='utf-8') as file:
            file.write(json.dumps(result) + '\n')
    if max(differences.values()) > TOLERANCE:
        raise SystemExit(f'the two ways differ by more than {TOLERANCE}: {differences}')


def _ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(slow) / statistics.median(fast)


def _print(result: dict) -> None:
    table = Table(
        title=f'{result["image"]}, {result["keypoints"]} keypoints, {result["threads"]} threads, '
        f'{result["weights"]} weights'
    )
    for column in ('', 'median ms', '95 % ms'):
        table.add_column(column, justify='right' if column else 'left')
    for name, median in result['median_ms'].items():
        table.add_row(name, f'{median:.1f}', f'{result["p95_ms"][name]:.1f}')
    console.print(table)
    console.print(f'dense / ours: {result["dense_over_ours"]:.2f}')
    parts = [f'{name} {value:.1e}' for name, value in result['largest_differences'].items()]
    console.print(f'largest differences: {", ".join(parts)}')


if __name__ == '__main__':
    try:
        typer.run(main)
    except KpfeatError as error:
        Console(stderr=True).print(f'error: {error}', soft_wrap=True)
        sys.exit(2)
