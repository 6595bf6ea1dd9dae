"""
Recordings: what `kpfeat bag extract` adds to inference, and what COLMAP's bytes lose.

    python benchmarks/recordings.py speed
    python benchmarks/recordings.py speed --gigabytes 5 --size 1920x1080 --stride 20 --rounds 1
    python benchmarks/recordings.py speed --device cuda --frames 2000 --out results/bag_speed.jsonl
    python benchmarks/recordings.py colmap RECORDING
    python benchmarks/recordings.py colmap RECORDING --model alike-n --weights alike-n.safetensors
    python benchmarks/recordings.py colmap RECORDING --apart 8 --out results/colmap.jsonl

`speed` compares the time of a frame, and memory beyond the model. A recording of moving noise is
written to a folder that then goes. Rounds of inference alone, on the same images in memory, take
turns with rounds of the whole command. Wall time of a busy machine says little: the time of the
processor is beside it. With --gigabytes memory is what counts, and --stride spares the inference
of most images; they are read all the same.

`colmap` compares neighbours and inliers before and after descriptors become bytes. Images of a
recording are matched with the one `--apart` images later. A keypoint keeps its neighbour where the
bytes choose the same one, by distance as COLMAP on a CPU and by product as on a GPU. Inliers are
mutual neighbours that agree with one fundamental matrix.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import json
from multiprocessing import get_context
from pathlib import Path
import resource
from statistics import median
import tempfile
import time
from typing import Annotated, Any

from common import provenance
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.frames import load_extractor, open_frames
from kpfeat_core.bags.request import ExtractRequest, FramesRequest
from kpfeat_core.colmap import descriptors_to_sift
from kpfeat_core.config import DEFAULT_MODEL, MatcherConfig
from kpfeat_core.features import Features
from kpfeat_core.matching import match_pair, MutualNearestNeighbor
from kpfeat_core.messages.definitions import typestore
from kpfeat_core.sources import parse_size
import numpy as np
from rich.console import Console
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
import torch
import typer

console = Console()
IMAGE = 'sensor_msgs/msg/Image'
PERIOD_NS = 33_000_000
OutOption = Annotated[Path | None, typer.Option(help='append a JSON line here')]
app = typer.Typer(help=__doc__.strip().partition('\n')[0])


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
    """Return gray noise (H, W) that moves a little with each index."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8), np.uint8)
    large = np.kron(noise, np.ones((8, 8), np.uint8))
    return np.roll(large, index % width, axis=1)


def write_recording(folder: Path, frames: int, size: tuple[int, int], storage: str) -> None:
    """Write a recording of one camera."""
    store = typestore()
    kinds = (
        store.types[f'{name}'] for name in ('builtin_interfaces/msg/Time', 'std_msgs/msg/Header')
    )
    time_of, header_of = kinds
    with Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connection = writer.add_connection('/camera/image_raw', IMAGE, typestore=store)
        for k in range(frames):
            pixels = picture(k, size)
            header = header_of(stamp=time_of(*divmod(k * PERIOD_NS, 10**9)), frame_id='camera')
            message = store.types[IMAGE](
                header, *pixels.shape, 'mono8', 0, pixels.shape[1], pixels.reshape(-1)
            )
            writer.write(connection, k * PERIOD_NS, store.serialize_cdr(message, IMAGE))


def timed(call: Any) -> tuple[float, float]:
    """
    Return seconds on the wall and of the processor.

    In a thread that then ends: helpers of OpenMP that a thread keeps would slow down the others.
    """
    wall, busy = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()
    return time.perf_counter() - wall, time.process_time() - busy


def peak_mb() -> float:
    """Return the most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(folder: Path, wanted: ExtractRequest, size: tuple[int, int], rounds: int) -> dict:
    """Compare inference alone with the whole command."""
    extractor = load_extractor(wanted)
    batch = wanted.batch_size if wanted.batch_size > 0 else 8 if wanted.device != 'cpu' else 1
    pictures = [picture(k, size) for k in range(16)]

    def infer(count: int) -> None:
        for begin in range(0, count, batch):
            images = [pictures[k % 16] for k in range(begin, min(begin + batch, count))]
            extractor.extract(images).to('cpu')

    timed(lambda: infer(16))
    before = peak_mb()
    alone, whole, report = [], [], None
    for _ in range(rounds):
        made = []
        whole.append(timed(lambda made=made: made.append(extract_recording(wanted, extractor))))
        report = made[0]
        alone.append(timed(lambda report=report: infer(report.images)))
    ms = 1e3 / report.images
    values = {
        'frames': report.images,
        'alone_ms': ms * median(wall for wall, _ in alone),
        'whole_ms': ms * median(wall for wall, _ in whole),
        'alone_cpu_ms': ms * median(busy for _, busy in alone),
        'whole_cpu_ms': ms * median(busy for _, busy in whole),
        'memory_beyond_model_mb': peak_mb() - before,
    }
    return {k: round(v, 3) for k, v in values.items()}


@app.command()
def speed(
    frames: Annotated[int, typer.Option(help='images of the recording')] = 100,
    gigabytes: Annotated[float, typer.Option(help='size of the recording, in place of it')] = 0.0,
    size: Annotated[str, typer.Option(help='WIDTHxHEIGHT of the images')] = '640x480',
    storage: Annotated[str, typer.Option(help='mcap or sqlite3')] = 'mcap',
    stride: Annotated[int, typer.Option(help='take every k-th image')] = 1,
    model: Annotated[str, typer.Option(help='name of the extractor')] = 'alike-t',
    device: Annotated[str, typer.Option(help='cpu, cuda, ...')] = 'cpu',
    rounds: Annotated[int, typer.Option(help='times that each is measured')] = 5,
    out: OutOption = None,
) -> None:
    """Write a recording, extract its features, and compare."""
    pixels = parse_size(size)
    if gigabytes:
        frames = round(gigabytes * 1e9 / (pixels[0] * pixels[1]))
    with tempfile.TemporaryDirectory(prefix='kpfeat-') as temporary:
        folder = Path(temporary) / 'recording'
        writing = get_context('spawn').Process(  # its memory is not ours
            target=write_recording, args=(folder, frames, pixels, storage)
        )
        writing.start()
        writing.join()
        mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        wanted = ExtractRequest(
            folder, Path(temporary) / 'out.mcap', model=model, device=device, stride=stride
        )
        values = measure(folder, wanted, pixels, rounds)
    options = {'model': model, 'device': device, 'size': size, 'storage': storage}
    line = {**options, 'stride': stride, 'recording_mb': round(mb), **values}
    share = values['whole_ms'] / values['alone_ms'] - 1
    busy = values['whole_cpu_ms'] / values['alone_cpu_ms'] - 1
    console.print(line)
    console.print(f'added to inference: {share:.1%} of wall time, {busy:.1%} of processor time')
    if out:
        with out.open('a') as file:
            file.write(json.dumps(line | provenance()) + '\n')


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


@app.command()
def colmap(
    recording: Annotated[Path, typer.Argument(help='with one topic of images')],
    model: Annotated[str, typer.Option(help='name of the extractor')] = DEFAULT_MODEL,
    weights: Annotated[str, typer.Option(help='weight file')] = '',
    apart: Annotated[int, typer.Option(help='images from the first to the second')] = 4,
    max_keypoints: Annotated[int, typer.Option(help='keypoints of an image')] = 1000,
    out: OutOption = None,
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
    console.print(line)
    if out:
        with out.open('a') as file:
            file.write(json.dumps(line | provenance()) + '\n')


if __name__ == '__main__':
    app()
