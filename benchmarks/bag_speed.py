"""
What `kpfeat bag extract` adds to inference: time of a frame, and memory beyond the model.

    python benchmarks/bag_speed.py
    python benchmarks/bag_speed.py --gigabytes 5 --size 1920x1080 --stride 20 --rounds 1
    python benchmarks/bag_speed.py --device cuda --frames 2000 --out results/bag_speed.jsonl

A recording of moving noise is written to a folder that then goes. Rounds of inference alone, on
the same images in memory, take turns with rounds of the whole command. Wall time of a busy machine
says little: the time of the processor is beside it. With --gigabytes memory is what counts, and
--stride spares the inference of most images; they are read all the same.
"""

from concurrent.futures import ThreadPoolExecutor
import json
from multiprocessing import get_context
from pathlib import Path
import resource
import statistics
import tempfile
import time
from typing import Annotated, Any

from common import provenance
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.frames import load_extractor
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.messages.definitions import typestore
from kpfeat_core.sources import parse_size
import numpy as np
from rich.console import Console
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
import typer

console = Console()
IMAGE = 'sensor_msgs/msg/Image'
PERIOD_NS = 33_000_000


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
        'alone_ms': ms * statistics.median(wall for wall, _ in alone),
        'whole_ms': ms * statistics.median(wall for wall, _ in whole),
        'alone_cpu_ms': ms * statistics.median(busy for _, busy in alone),
        'whole_cpu_ms': ms * statistics.median(busy for _, busy in whole),
        'memory_beyond_model_mb': peak_mb() - before,
    }
    return {k: round(v, 3) for k, v in values.items()}


def main(
    frames: Annotated[int, typer.Option(help='images of the recording')] = 100,
    gigabytes: Annotated[float, typer.Option(help='size of the recording, in place of it')] = 0.0,
    size: Annotated[str, typer.Option(help='WIDTHxHEIGHT of the images')] = '640x480',
    storage: Annotated[str, typer.Option(help='mcap or sqlite3')] = 'mcap',
    stride: Annotated[int, typer.Option(help='take every k-th image')] = 1,
    model: Annotated[str, typer.Option(help='name of the extractor')] = 'alike-t',
    device: Annotated[str, typer.Option(help='cpu, cuda, ...')] = 'cpu',
    rounds: Annotated[int, typer.Option(help='times that each is measured')] = 5,
    out: Annotated[Path | None, typer.Option(help='append a JSON line here')] = None,
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


if __name__ == '__main__':
    typer.run(main)
