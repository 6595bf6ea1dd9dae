"""Progress of work on many images: how many a second, and how long it still takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .common import console


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
