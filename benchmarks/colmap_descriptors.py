"""
What descriptors lose on their way to COLMAP: neighbours and inliers before and after.

    python benchmarks/colmap_descriptors.py RECORDING
    python benchmarks/colmap_descriptors.py RECORDING --model alike-n --weights alike-n.safetensors
    python benchmarks/colmap_descriptors.py RECORDING --apart 8 --out results/colmap.jsonl

Images of a recording are matched with the one `--apart` images later. A keypoint keeps its
neighbour where the bytes choose the same one, by distance as COLMAP on a CPU and by product as on
a GPU. Inliers are mutual neighbours that agree with one fundamental matrix.
"""

from dataclasses import replace
import json
from pathlib import Path
from statistics import median
from typing import Annotated

from common import provenance
from kpfeat_core.bags.colmap import descriptors_to_sift
from kpfeat_core.bags.frames import open_frames
from kpfeat_core.bags.request import FramesRequest
from kpfeat_core.config import DEFAULT_MODEL, MatcherConfig
from kpfeat_core.features import Features
from kpfeat_core.matching import match_pair, MutualNearestNeighbor
from rich.console import Console
import torch
import typer


def as_bytes(features: Features) -> Features:
    """Return features with the bytes that COLMAP gets, less their middle, of unit length."""
    found = torch.from_numpy(descriptors_to_sift(features.descriptors[0].numpy())).float()[None]
    centred = found - found.mean(2, keepdim=True)
    return replace(features, descriptors=torch.nn.functional.normalize(centred, dim=2))


def compare(first: Features, second: Features, matcher: MutualNearestNeighbor) -> dict:
    """Return shares of kept neighbours, and counts of inliers before and after."""
    pair = (first.descriptors[0], second.descriptors[0])
    expected = torch.cdist(*pair).argmin(1)
    packed = [torch.from_numpy(descriptors_to_sift(each.numpy())).float() for each in pair]
    after = match_pair(matcher, as_bytes(first), as_bytes(second))
    return {
        'kept_by_distance': float((torch.cdist(*packed).argmin(1) == expected).float().mean()),
        'kept_by_product': float(((packed[0] @ packed[1].T).argmax(1) == expected).float().mean()),
        'inliers_before': int(match_pair(matcher, first, second).inliers.sum()),
        'inliers_after': int(after.inliers.sum()),
    }


def main(
    recording: Annotated[Path, typer.Argument(help='with one topic of images')],
    model: Annotated[str, typer.Option(help='name of the extractor')] = DEFAULT_MODEL,
    weights: Annotated[str, typer.Option(help='weight file')] = '',
    apart: Annotated[int, typer.Option(help='images from the first to the second')] = 4,
    max_keypoints: Annotated[int, typer.Option(help='keypoints of an image')] = 1000,
    out: Annotated[Path | None, typer.Option(help='append a JSON line here')] = None,
) -> None:
    """Compare all pairs of a recording."""
    options = {'max_num_keypoints': max_keypoints}
    request = FramesRequest(recording, model=model, weights=weights, options=options)
    frames = open_frames(request).lists()
    found = [frame.features for batch in frames for frame in batch]
    matcher = MutualNearestNeighbor(MatcherConfig(geometry='fundamental'))
    pairs = [compare(*pair, matcher) for pair in zip(found, found[apart:], strict=False)]
    line = {
        'recording': recording.name,
        'model': model,
        'numbers': found[0].descriptor_dim,
        'apart': apart,
        'pairs': len(pairs),
        **{name: round(median(pair[name] for pair in pairs), 4) for name in pairs[0]},
    }
    Console().print(line)
    if out:
        with out.open('a') as file:
            file.write(json.dumps(line | provenance()) + '\n')


if __name__ == '__main__':
    typer.run(main)
