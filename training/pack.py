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
from kpfeat_core.data.image_folder import find_row, read_manifest, read_small
from kpfeat_core.errors import DataError, KpfeatError
from kpfeat_core.io import expand_images, replacing
import numpy as np
from rich.progress import track
import typer

QUALITIES = range(35, 96, 5)
OVERHEAD = 300  # bytes of a .zip file for each picture: its name twice, and what is noted of it


def encode(image: np.ndarray, quality: int) -> bytes:
    """Write a picture as WebP."""
    words = [cv2.IMWRITE_WEBP_QUALITY, quality]
    return cv2.imencode('.webp', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), words)[1].tobytes()


def choose_quality(paths: list[Path], side: int, room: float) -> int:
    """Return the best quality with which a sample of the pictures takes its share of the room."""
    chosen = paths[:: max(1, len(paths) // 150)]
    sample = [image for path in chosen if (image := read_small(path, side)) is not None]
    share = room * len(chosen) / len(paths)

    def size(quality: int) -> int:
        return sum(len(encode(image, quality)) + OVERHEAD for image in sample)

    fitting = bisect.bisect(QUALITIES, 0.97 * share, key=size)
    if fitting == 0:
        raise DataError(
            f'{len(paths)} pictures do not fit into {room / 1e6:.0f} MB even in quality '
            f'{QUALITIES[0]}; give more room, or a smaller --side'
        )
    return QUALITIES[fitting - 1]


def manifest(folder: Path, names: dict[Path, str]) -> str:
    """Return manifest.csv with the new names of the pictures; '' where none is in it."""
    rows = read_manifest(folder)
    found = [(find_row(path, rows), name) for path, name in names.items()]
    renamed = [row | {'file': name} for row, name in found if row]
    if not renamed:
        return ''
    text = io.StringIO()
    writer = csv.DictWriter(text, renamed[0].keys())
    writer.writeheader()
    writer.writerows(renamed)
    return text.getvalue()


def pack(
    photographs: Annotated[Path, typer.Argument(help='Folder of pictures, with subfolders.')],
    out: Annotated[Path, typer.Option('--out', '-o', help='The .zip file to write.')],
    megabytes: Annotated[float, typer.Option(help='Largest size of the file.')] = 35,
    side: Annotated[int, typer.Option(help='Longest side of a picture, in pixels.')] = 400,
) -> None:
    """Pack photographs into one .zip file."""
    pictures = expand_images([str(photographs)], by_stem=True)
    quality = choose_quality([picture.path for picture in pictures], side, megabytes * 1e6)
    names: dict[Path, str] = {}
    with replacing(out) as temporary, zipfile.ZipFile(temporary, 'w') as file:
        for picture in track(pictures, f'packing in quality {quality}'):
            image = read_small(picture.path, side)
            if image is None:
                print(f"left out: '{picture.path}' cannot be read", file=sys.stderr)
                continue
            name = picture.name.with_suffix('.webp').as_posix()
            names[picture.path] = name
            file.writestr(name, encode(image, quality))
        if not names:
            raise DataError(f"none of {len(pictures)} pictures in '{photographs}' can be read")
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
