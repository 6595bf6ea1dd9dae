"""
Rebuild the photographs on which the bundled weights were trained.

The pictures are those of photographs.csv: most are in Debian packages, the others in public
repositories. See data.md for the commands in order.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import csv
from dataclasses import dataclass, field
from functools import partial
import io
from pathlib import Path
import re
import signal
import sys
import tempfile
from typing import Annotated, Optional
import zipfile

import cv2
from debian import extract, get_deb
from kpfeat_core.errors import DataError, KpfeatError
from kpfeat_core.image import read_image, scaled_size
from kpfeat_core.io import replacing
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
import typer

try:
    from PIL import Image, ImageOps
except ImportError:
    sys.exit("error: this needs Pillow, which is not installed; pip install '.[train]'")

LIST = Path(__file__).with_suffix('.csv')
SIDE = 480  # longest side of a picture, in pixels
SAME = 6  # bits of 64 in which the hash of a picture may differ from that of the original
REPEATED = ('origin', 'version', 'resize', 'licence')  # empty: as in the row above
NOTES = ('file', 'kind', 'source', 'licence', 'author', 'width', 'height', 'different_bits')
USER_ERROR, INCOMPLETE = 2, 3
EXAMPLES = """
Examples:

  python training/photographs.py --out photographs/  # 7.4 GB are fetched, a package at a time

  python training/photographs.py debs/ --out photographs/  # fetch into debs/ and keep them there

  python training/photographs.py debs/ --offline --folder checkouts/ --out photographs/

  python training/photographs.py --only mate-backgrounds --only palapeli-data --out some/

Exit code 0: all there; 3: some could not be had, the same command tries them again.
"""


@dataclass(frozen=True)
class Picture:
    """A row of photographs.csv: what to find where, and how it becomes a picture of the set."""

    file: str
    kind: str
    origin: str
    version: str
    member: str
    quarter: str
    width: str
    height: str
    resize: str  # 'lanczos' or 'area'
    quality: str  # of the JPEG; of two, the second is written from what the first left
    dhash: str
    weak: str
    licence: str
    author: str

    @property
    def path(self) -> str:
        """Return the file of the package or repository that holds the picture."""
        return re.split(r'!|(?<=\.rcc)@', self.member, maxsplit=1)[0]

    @property
    def package(self) -> str:
        """Return the name without what kind of origin it is."""
        return self.origin.partition(':')[2]


@dataclass
class Report:
    """What became of the pictures of one origin."""

    built: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def read_list(path: Path) -> list[Picture]:
    """Read photographs.csv."""
    pictures, above = [], dict.fromkeys(REPEATED, '')
    with path.open(encoding='utf-8', newline='') as file:
        for row in csv.DictReader(file):
            above = {name: row[name] or above[name] for name in REPEATED}
            pictures.append(Picture(**(row | above)))
    return pictures


def dhash(image: np.ndarray) -> int:
    """Return 64 bits: where a 9 x 8 gray copy of the RGB image grows brighter to the right."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), 'big')


def read_member(file: Path, member: str) -> bytes:
    """Read one picture of a file: itself, an entry of a zip, or a resource of a Qt .rcc."""
    _, inside, entry = member.partition('!')
    if inside:
        with zipfile.ZipFile(file) as archive:
            return archive.read(entry)
    if resource := re.search(r'\.rcc@(\d+)$', member):
        with file.open('rb') as data:
            data.seek(int(resource[1]))
            return data.read()  # what follows the picture does no harm
    return file.read_bytes()


def small_picture(image: Image.Image, quarter: str, resize: str) -> Image.Image:
    """Cut out a quarter ('0' to '3' by rows; '' for all), and shrink it to `SIDE` pixels."""
    if quarter:
        row, column = divmod(int(quarter), 2)
        x, y = image.width // 2, image.height // 2
        image = image.crop((column * x, row * y, (column + 1) * x, (row + 1) * y))
    height, width = scaled_size(image.height, image.width, min(SIDE, max(image.size)))
    if resize == 'lanczos':
        return image.resize((width, height), Image.Resampling.LANCZOS)
    small = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return Image.fromarray(small)


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Write an image as JPEG."""
    data = io.BytesIO()
    image.save(data, 'JPEG', quality=quality)
    return data.getvalue()


def build(picture: Picture, file: Path, out: Path) -> None:
    """Make one picture of the set; raises DataError."""
    try:
        data = read_member(file, picture.member)
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f'not in {Path(picture.path).name}') from error
    try:
        with Image.open(io.BytesIO(data)) as original:
            upright = ImageOps.exif_transpose(original).convert('RGB')
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(f'{type(error).__name__} in decoding') from error
    image = small_picture(upright, picture.quarter, picture.resize)
    jpeg = b''
    for quality in picture.quality.split():
        jpeg = to_jpeg(image, int(quality))
        image = Image.open(io.BytesIO(jpeg))
    with replacing(out / picture.file) as temporary:
        temporary.write_bytes(jpeg)


def find_checkout(package: str, folder: Path | None) -> Path | None:
    """Find a repository in a folder, as `name`, `owner/name` or `name-branch`."""
    if folder is None:
        return None
    name = package.rpartition('/')[2]
    places = [folder / package, folder / name, *sorted(folder.glob(f'{name}-*'))]
    return next((place for place in places if place.is_dir()), None)


@dataclass(frozen=True)
class Places:
    """Where to look for the files that hold the pictures."""

    debs: Path
    folder: Path | None
    offline: bool
    scratch: Path
    warn: Callable[[str], None]

    def files(self, pictures: Sequence[Picture]) -> Iterator[tuple[str, Path]]:
        """Give the files that hold pictures of one origin, one after the other; DataError."""
        origin, package, version = pictures[0].origin, pictures[0].package, pictures[0].version
        wanted = {picture.path for picture in pictures}
        if place := find_checkout(package, self.folder):
            yield from ((path, place / path) for path in wanted if (place / path).is_file())
        elif origin.startswith('debian:'):
            deb = get_deb(package, version, self.debs, self.offline, self.warn)
            yield from extract(deb, wanted, self.scratch)
            if self.debs == self.scratch:
                deb.unlink()
        else:
            kind = origin.partition(':')[0]
            raise DataError(f'not from Debian: fetch {package} {version} ({kind}), pass --folder')


def build_origin(
    pictures: Sequence[Picture], places: Places, out: Path, advance: Callable[[int], None]
) -> Report:
    """Make the pictures of one origin that are not there yet."""
    report = Report()
    missing = {p.file: p for p in pictures if not (out / p.file).is_file()}
    report.kept = len(pictures) - len(missing)
    advance(report.kept)
    try:
        for path, file in places.files(list(missing.values())) if missing else ():
            for picture in [p for p in missing.values() if p.path == path]:
                try:
                    build(picture, file, out)
                    report.built += 1
                except DataError as error:
                    report.reasons[str(error)] += 1
                del missing[picture.file]
                advance(1)
        if missing:
            report.reasons['not in the package or checkout'] += len(missing)
    except DataError as error:
        report.reasons[str(error)] += len(missing)
    return report


def write_manifest(pictures: Sequence[Picture], out: Path) -> dict[str, int]:
    """Note the pictures that are there, and return the origins of those that differ."""
    different: Counter[str] = Counter()
    with (
        replacing(out / 'manifest.csv') as temporary,
        temporary.open('w', encoding='utf-8', newline='') as file,
    ):
        writer = csv.DictWriter(file, NOTES)
        writer.writeheader()
        for picture in (p for p in pictures if (out / p.file).is_file()):
            image = read_image(out / picture.file)
            bits = (dhash(image) ^ int(picture.dhash, 16)).bit_count()
            different[picture.origin] += bits > SAME
            writer.writerow(picture_note(picture, image, bits))
    return different


def picture_note(picture: Picture, image: np.ndarray, bits: int) -> dict[str, object]:
    """Return the row of manifest.csv of a picture."""
    source = f'{picture.origin} {picture.version} : {picture.member}'
    quarter = f' _q{picture.quarter}' if picture.quarter else ''
    height, width = image.shape[:2]
    values = (
        picture.file, picture.kind, source + quarter, picture.licence, picture.author, width,
        height, bits,
    )  # fmt: skip
    return dict(zip(NOTES, values, strict=True))


def choose(
    pictures: Sequence[Picture], only: Sequence[str], strict: bool, out: Path
) -> dict[str, list[Picture]]:
    """Return the pictures to make, by origin; raises DataError for what cannot be meant."""
    packages = {p.package for p in pictures}
    for name in only:
        if name not in packages:
            raise DataError(
                f"no picture is of '{name}'; expected one of {', '.join(sorted(packages))}"
            )
    if strict:
        weak = [p.file for p in pictures if p.weak and (out / p.file).exists()]
        if weak:
            raise DataError(
                f"'{out}' holds {len(weak)} pictures that --licence-strict leaves out, such as "
                f'{weak[0]}; give another --out, or delete them'
            )
    chosen: dict[str, list[Picture]] = {}
    for picture in pictures:
        if not (strict and picture.weak) and (not only or picture.package in only):
            chosen.setdefault(picture.origin, []).append(picture)
    return chosen


def print_reports(reports: dict[str, Report], different: dict[str, int], console: Console) -> None:
    """Show what was built, and why the others were not."""
    table = Table('origin', *('built', 'kept', 'differ', 'missing'), 'why')
    for origin, report in reports.items():
        numbers = (report.built, report.kept, different[origin], report.reasons.total())
        table.add_row(
            origin, *(str(number or '') for number in numbers), '; '.join(report.reasons)
        )
    console.print(table)


def photographs(
    debs: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Argument(
            help='Folder with .deb files; those that miss are fetched into it. Without it, each '
            'is fetched, used and deleted.'
        ),
    ] = None,
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder for the pictures.')] = Path(
        'photographs'
    ),
    folder: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9, which Ubuntu 24.04 has, knows no `|`
        typer.Option(help='Folder of checkouts, and of packages that are unpacked already.'),
    ] = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help='Only this package or repository; may be repeated.'),
    ] = None,
    licence_strict: Annotated[
        bool,
        typer.Option(
            '--licence-strict', help='Leave out the pictures that no licence names one by one.'
        ),
    ] = False,
    offline: Annotated[bool, typer.Option('--offline', help='Fetch nothing.')] = False,
    listing: Annotated[
        Path, typer.Option('--list', help='The list of pictures.', show_default='photographs.csv')
    ] = LIST,
) -> None:
    """Rebuild the photographs on which the bundled weights were trained."""
    console = Console(stderr=True)
    if folder is not None and not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'; expected one of checkouts")
    pictures = read_list(listing)
    chosen = choose(pictures, only or (), licence_strict, out)
    out.mkdir(parents=True, exist_ok=True)
    reports = {}
    with (
        tempfile.TemporaryDirectory(prefix='.photographs-', dir=out) as scratch,
        Progress(console=console) as progress,
    ):
        task = progress.add_task('', total=sum(map(len, chosen.values())))

        def warn(words: str) -> None:
            console.print(f'[yellow]warning:[/] {words}', highlight=False)

        if debs is not None:
            debs.mkdir(parents=True, exist_ok=True)
        places = Places(debs or Path(scratch), folder, offline, Path(scratch), warn)
        for origin, group in chosen.items():
            progress.update(task, description=origin)
            reports[origin] = build_origin(group, places, out, partial(progress.advance, task))
    different = write_manifest(pictures, out)
    print_reports(reports, different, console)
    missing = sum(report.reasons.total() for report in reports.values())
    there = sum(report.built + report.kept for report in reports.values())
    others = sum(different[origin] for origin in reports)
    print(f'{out}: {there} pictures, {missing} missing, {others} differ')
    if missing:
        raise typer.Exit(INCOMPLETE)


def main(arguments: Sequence[str]) -> None:
    """Run the command; errors are one sentence and exit code 2."""
    app = typer.Typer(add_completion=False, rich_markup_mode='markdown')
    app.command(epilog=EXAMPLES)(photographs)
    try:
        app(arguments)
    except KpfeatError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without cleaning up
    main(sys.argv[1:])
