"""The CSV files of a run."""

from collections.abc import Mapping
import csv
from pathlib import Path

LOG, VALIDATION, SPEED = 'log.csv', 'validation.csv', 'speed.csv'


def append_row(path: Path, numbers: Mapping[str, float]) -> None:
    """Add a row, and the header to a new file."""
    is_new = not path.exists()
    with open(path, 'a', newline='') as file:
        writer = csv.DictWriter(file, numbers)
        if is_new:
            writer.writeheader()
        writer.writerow({key: round(value, 5) for key, value in numbers.items()})


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read all rows as numbers, without a last one that was cut off."""
    with open(path, newline='') as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def validation_picture(folder: Path, step: int) -> Path:
    """Return where a run puts what it makes of photographs held out."""
    return folder / 'validation' / f'{step:07d}.jpg'


def forget_after(folder: Path, step: int) -> None:
    """Remove what a run wrote after the checkpoint that it goes on from; -1: all of it."""
    if (folder / VALIDATION).exists():
        for row in read_rows(folder / VALIDATION):
            if row['step'] > step:
                validation_picture(folder, int(row['step'])).unlink(missing_ok=True)
    for name in (LOG, VALIDATION, SPEED):
        _drop_rows_after(folder / name, step)


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row['step'] <= step]
    path.unlink()
    for row in kept:
        append_row(path, row | {'step': int(row['step'])})
