"""What tests of recordings have in common: looking at outputs, and runs that end early."""

from collections.abc import Callable
import hashlib
from pathlib import Path
from typing import Any

from kpfeat_core.bags.reader import BagReader
from kpfeat_core.bags.recording import Record
from made_bags import images, Made, PERIOD, START, write_split_bag

COUNT = 8  # images of the fixture `bag`
DRIVE_COUNT = 9  # images of a recording in three parts
LEFT, RIGHT = 6, 4  # images of both cameras of the fixture `stereo`


class Killed(BaseException):
    """What a run ends with that is killed."""


def kill_after(count: int) -> Callable[[Any], None]:
    """Return a function for on_image that ends a run after so many images."""

    def on_image(report: Any) -> None:
        if report.images == count:
            raise Killed

    return on_image


def batches_done(out: Path) -> int:
    """Return how many batches of images an unfinished run has done."""
    log = out.with_name(f'.{out.name}.partial') / 'done.jsonl'
    return log.read_bytes().count(b'\n') if log.is_file() else 0


def read(path: Path, topic: str = '/left/features') -> list[Record]:
    """Return the messages of a topic of a recording that is not damaged."""
    reader = BagReader(path)
    records = list(reader.records(reader.choose([topic])))
    assert reader.damage == []
    return records


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder by their names."""
    files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def sha256(path: Path) -> str:
    """Return a hash of a file, or of all files of a folder with their names."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(repr(contents(path)).encode()).hexdigest()


def write_drive(folder: Path, *more: Made) -> Path:
    """Write a recording of three parts; more: messages of other topics."""
    made = sorted([*images(DRIVE_COUNT), *more], key=lambda one: one.time)
    third = START + 3 * PERIOD, START + 6 * PERIOD
    parts = [
        [one for one in made if sum(one.time >= border for border in third) == k] for k in range(3)
    ]
    return write_split_bag(folder, parts)
