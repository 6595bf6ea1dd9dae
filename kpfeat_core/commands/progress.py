"""Progress of work on many images: how many a second, and how long it still takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time

from .common import console

PART_SECONDS = 3600.0  # over which the speed of parts is averaged


@contextmanager
def image_progress(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """
    Give a function that takes how many images are done, and of how many.

    Shows a bar on stderr; nothing where that is not a terminal, or with `quiet`.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]:.1f} frames/s'),
        TimeRemainingColumn(compact=True),
        console=console(),
        transient=True,
        disable=quiet or not console().is_terminal,
    )
    with progress:
        task = progress.add_task(what, total=None, rate=0.0)

        def show(done: int, total: int) -> None:
            rate = progress.tasks[0].speed or 0.0
            progress.update(task, completed=done, total=max(done, total), rate=rate)

        yield show


@contextmanager
def part_progress(
    what: str, parts: int, quiet: bool = False
) -> Iterator[Callable[[float, int], None]]:
    """
    Give a function that takes how many parts of work are done, and how many images by now.

    What is done at the first call does not count for the time that is left. Shows a bar on stderr;
    nothing where that is not a terminal, or with `quiet`.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    began = time.monotonic()
    progress = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.fields[done]} of {task.fields[parts]} parts'),
        TextColumn('{task.fields[rate]:.1f} frames/s'),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        disable=quiet or not console().is_terminal,
        speed_estimate_period=PART_SECONDS,
    )
    with progress:
        task = progress.add_task(what, total=None, parts=parts, done=0, rate=0.0)

        def show(done: float, images: int) -> None:
            if progress.tasks[0].total is None:
                progress.reset(task, total=parts, completed=done)
            rate = images / max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, done=int(done), rate=rate)

        yield show
