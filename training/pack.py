"""
Pack photographs into one .zip file of a given size, to train where a folder cannot be carried.

    python training/pack.py PHOTOGRAPHS --out photographs.zip --megabytes 35
    kpfeat train alike-t --data photographs.zip --out runs/first

Pictures are shrunk to what training reads and written as WebP, in the best quality with which all
of them fit. manifest.csv comes along where there is one.
"""

import bisect
import csv
import io
from pathlib import Path
import sys
from typing import Annotated
import zipfile

import cv2
from kpfeat_core.data.image_folder import find_images
from kpfeat_core.errors import DataError, ImageError, KpfeatError
from kpfeat_core.image import read_image, scaled_size
from kpfeat_core.io import replacing
import numpy as np
from rich.progress import track
import typer

QUALITIES = range(35, 96, 5)
OVERHEAD = 300  # bytes of a .zip file for each picture: its name twice, and what is noted of it


def read_small(path: Path, side: int) -> np.ndarray:
    """Read a picture with a long side of at most `side` pixels."""
    image = read_image(path)
    height, width = image.shape[:2]
    size = scaled_size(height, width, min(side, max(height, width)))
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def encode(image: np.ndarray, quality: int) -> bytes:
    """Write a picture as WebP."""
    words = [cv2.IMWRITE_WEBP_QUALITY, quality]
    return cv2.imencode('.webp', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), words)[1].tobytes()


def choose_quality(paths: list[Path], side: int, room: float) -> int:
    """Return the best quality with which a sample of the pictures takes its share of the room."""
    sample = [read_small(path, side) for path in paths[:: max(1, len(paths) // 150)]]
    share = room * len(sample) / len(paths)

    def size(quality: int) -> int:
        return sum(len(encode(image, quality)) + OVERHEAD for image in sample)

    fitting = bisect.bisect(QUALITIES, 0.97 * share, key=size)
    if fitting == 0:
        raise DataError(
            f'{len(paths)} pictures do not fit into {room / 1e6:.0f} MB even in quality '
            f'{QUALITIES[0]}; give more room, or a smaller --side'
        )
    return QUALITIES[fitting - 1]


def manifest(folder: Path, names: dict[str, str]) -> str:
    """Return manifest.csv with the new names of the pictures; '' where there is none."""
    for place in (folder, folder.parent):
        path = place / 'manifest.csv'
        if path.is_file():
            rows = list(csv.DictReader(path.read_text(encoding='utf-8').splitlines()))
            text = io.StringIO()
            writer = csv.DictWriter(text, rows[0].keys())
            writer.writeheader()
            writer.writerows(r | {'file': names[r['file']]} for r in rows if r['file'] in names)
            return text.getvalue()
    return ''


def pack(
    photographs: Annotated[Path, typer.Argument(help='Folder of pictures, with subfolders.')],
    out: Annotated[Path, typer.Option('--out', '-o', help='The .zip file to write.')],
    megabytes: Annotated[float, typer.Option(help='Largest size of the file.')] = 35,
    side: Annotated[int, typer.Option(help='Longest side of a picture, in pixels.')] = 400,
) -> None:
    """Pack photographs into one .zip file."""
    paths = find_images(photographs)
    quality = choose_quality(paths, side, megabytes * 1e6)
    names: dict[str, str] = {}
    with replacing(out) as temporary, zipfile.ZipFile(temporary, 'w') as file:
        for path in track(paths, f'packing in quality {quality}'):
            try:
                image = read_small(path, side)
            except ImageError as error:
                print(f'left out: {error}', file=sys.stderr)
                continue
            name = path.relative_to(photographs).with_suffix('.webp').as_posix()
            names[path.name] = Path(name).name
            file.writestr(name, encode(image, quality))
        text = manifest(photographs, names)
        if text:
            file.writestr('manifest.csv', text)
    size = out.stat().st_size / 1e6
    print(f'{out}: {len(names)} pictures in {size:.1f} MB, WebP quality {quality}')
    if size > megabytes:
        raise DataError(f'that is more than {megabytes} MB: try --megabytes {megabytes - 1}')


if __name__ == '__main__':
    try:
        typer.run(pack)
    except KpfeatError as error:
        sys.exit(f'error: {error}')
