"""The work on one part of a fleet's recordings; it runs in this process or on another machine."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
import hashlib
import json
import os
from pathlib import Path
import shutil
import time
import traceback
from typing import Any, NamedTuple, TYPE_CHECKING, TypeVar

import cv2
import torch

from .extract import extract_recording, Extraction, load, Report
from .locking import InUseError
from .manifest import Entry, fingerprint, size_of
from .parts import Part
from .plan import make_plan, Plan
from .reader import BagReader
from .recording import LAST_TIME, Recording
from .settings import settings_of_model, settings_of_view
from .writers import storage_for
from ..errors import DataError, KpfeatError

if TYPE_CHECKING:
    from ..models.base import Extractor

PAUSES = (1.0, 5.0, 20.0)  # seconds before what may pass is tried again
ENDINGS = {'npz': '', 'h5': '.h5', 'colmap': '.db'}
STORAGE_ENDINGS = {'mcap': '.mcap', 'sqlite3': '.db3'}
OTHER = ('source', 'out', 'model', 'weights', 'device', 'options', 'view')  # told elsewhere
COUNTS = ('images', 'features', 'keypoints', 'copied')
OnStep = Callable[[Report], None]
T = TypeVar('T')
_loaded: dict[str, 'Extractor'] = {}  # the one that this process used last, by key


@dataclass(frozen=True)
class Fleet:
    """
    What is asked of many recordings, and plain enough to be sent elsewhere.

    wanted: of each part; its `out` is the folder of all outputs, its `source` means nothing. key:
    of the settings in the manifest. cpus: cores for a part, on which the last digits of features
    depend. verify: whether outputs that are there are hashed, rather than only measured.
    """

    wanted: Extraction
    key: str
    cpus: float = 1.0
    verify: bool = False

    def target(self, part: Part) -> Path:
        """Return where the features of a part go."""
        storage = STORAGE_ENDINGS[storage_for(Path(), self.wanted.storage)]
        ending = ENDINGS.get(self.wanted.format, storage)
        return self.wanted.out / f'{part.name}{ending}'

    def input(self, part: Part) -> dict[str, Any]:
        """Return what tells, at a glance, whether a part is what it was."""
        path = self.relative(part.file)
        try:
            stat = part.file.stat()
        except OSError:  # whoever reads it will say so
            return {'path': path}
        return {'path': path, 'size': stat.st_size, 'mtime_ns': stat.st_mtime_ns}

    def relative(self, path: Path) -> str:
        """Return a path as it stands in the manifest."""
        return Path(os.path.relpath(path, self.wanted.out)).as_posix()


class Job(NamedTuple):
    """A part that is to be done, or at least looked at; before: what the manifest tells of it."""

    part: Part
    before: Entry | None = None


class Result(NamedTuple):
    """
    What came of a job.

    fresh: whether it was done now, rather than found as it should be. images: that were done now,
    rather than by a run that was stopped. seconds: that it took.
    """

    part: Part
    entry: Entry
    fresh: bool = True
    images: int = 0
    seconds: float = 0.0


def settings_of(wanted: Extraction, extractor: 'Extractor') -> dict[str, Any]:
    """Return all that results depend on beside the recordings, as plain values."""
    return {
        **settings_of_model(wanted.model, extractor),
        **settings_of_view(wanted.view),
        'device': torch.device(wanted.device).type,
        'wanted': {f.name: getattr(wanted, f.name) for f in fields(wanted) if f.name not in OTHER},
    }


def key_of(settings: Mapping[str, Any]) -> str:
    """Return a short name for settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def untouched(fleet: Fleet, job: Job) -> bool:
    """Say whether a part was done before and looks, at a glance, as it did then."""
    before = job.before
    if before is None or before.error or before.settings != fleet.key or fleet.verify:
        return False
    return _seen(before) == fleet.input(job.part) and _same_output(fleet, job)


def survey(recording: Recording) -> BagReader | str:
    """Return what is known about a whole recording, or why nothing is."""
    return _patiently(partial(BagReader, recording))


def work(
    fleet: Fleet, job: Job, whole: BagReader | str, on_step: OnStep = lambda report: None
) -> Result:
    """
    Do a part, unless it is as it should be already; an error becomes an entry as well.

    whole: what `survey` found.
    """
    began = time.perf_counter()
    with _threads(max(1, int(fleet.cpus))):
        found = _patiently(partial(_work, fleet, job, whole, on_step))
    seconds = time.perf_counter() - began
    if isinstance(found, str):
        return failure(fleet, job.part, found, seconds)
    return found._replace(seconds=seconds)


def failure(fleet: Fleet, part: Part, sentence: str, seconds: float = 0.0) -> Result:
    """Return the result of a part that could not be done."""
    entry = Entry(fleet.input(part), fleet.key, error=sentence)
    return Result(part, entry, seconds=seconds)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _patiently(attempt: Callable[[], T]) -> T | str:
    """
    Return what a function does, or else its error as a sentence: one part never stops the others.

    What may pass is tried again: an error of the system, and an output on which another process
    is at work, which may be one that is about to end.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return attempt()
        except Exception as error:
            pause = next(pauses, None) if isinstance(error, OSError | InUseError) else None
            if pause is None:
                return _sentence(error)
        time.sleep(pause)


def _sentence(error: Exception) -> str:
    text = ' '.join(str(error).split())
    if isinstance(error, KpfeatError | OSError) and text:
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f'{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})'


def _work(fleet: Fleet, job: Job, whole: BagReader | str, on_step: OnStep) -> Result:
    if isinstance(whole, str):
        raise DataError(whole)
    part, target, given = job.part, fleet.target(job.part), fleet.input(job.part)
    wanted = replace(fleet.wanted, source=part.file, out=target)
    plan = make_plan(wanted, BagReader(part.file), whole)
    context = _context(plan)
    incomplete = _incomplete(whole) if part.is_last else []
    if job.before and _as_it_should_be(fleet, job, context):
        given['sha256'] = job.before.input['sha256']
        return Result(part, replace(job.before, input=given, incomplete=incomplete), fresh=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():  # of files that are not replaced in one step
        shutil.rmtree(target)
    report = extract_recording(wanted, _extractor(fleet), on_step, plan)
    _, digest = fingerprint(part.file)
    if fleet.input(part) != given:
        raise DataError(f"'{part.file}' was changed while it was read")
    size, made = fingerprint(target)
    entry = Entry(
        {**given, 'sha256': digest},
        fleet.key,
        {'path': fleet.relative(target), 'size': size, 'sha256': made},
        context,
        {name: getattr(report, name) for name in COUNTS},
        dict(report.skipped),
        report.reasons,
        [str(damage) for damage in report.damage],
        incomplete,
    )
    return Result(part, entry, images=report.images - report.resumed)


def _context(plan: Plan) -> dict[str, Any]:
    """Return what results depend on that the recording tells, without what says nothing."""
    context = plan.settings() | {'copied': [topic.name for topic in plan.copies.topics]}
    if context['range'] == [0, LAST_TIME]:
        context['range'] = []
    return {name: value for name, value in context.items() if value}


def _incomplete(whole: BagReader) -> list[str]:
    """Return what a recording lacks that is not damage of one of its files."""
    return [str(one) for one in whole.damage if one.path not in whole.recording.files]


def _as_it_should_be(fleet: Fleet, job: Job, context: Mapping[str, Any]) -> bool:
    part, before = job
    if before.error or (before.settings, before.context) != (fleet.key, context):
        return False
    if not _same_output(fleet, job):
        return False
    if fleet.verify and fingerprint(fleet.target(part))[1] != before.output['sha256']:
        return False
    if _seen(before) == fleet.input(part):
        return True
    return fingerprint(part.file)[1] == before.input['sha256']


def _seen(before: Entry) -> dict[str, Any]:
    return {name: value for name, value in before.input.items() if name != 'sha256'}


def _same_output(fleet: Fleet, job: Job) -> bool:
    target, known = fleet.target(job.part), job.before.output
    return known['path'] == fleet.relative(target) and known['size'] == size_of(target)


def _extractor(fleet: Fleet) -> 'Extractor':
    if fleet.key not in _loaded:
        _loaded.clear()
        extractor = load(fleet.wanted)
        if key_of(settings_of(fleet.wanted, extractor)) != fleet.key:
            raise DataError(
                'kpfeat, torch, OpenCV or the weights are not the same on this machine as where '
                'the run was started; install the same on all'
            )
        _loaded[fleet.key] = extractor
    return _loaded[fleet.key]
