"""Features of many recordings, file by file: the work on one of them, and on all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
import itertools
import os
from pathlib import Path
import time
import traceback
from typing import Any, NamedTuple, Protocol, runtime_checkable, TYPE_CHECKING, TypeVar

import cv2
import torch

from .extract import check_range, copies_of, extract_recording
from .frames import BagReport, load_extractor
from .manifest import fingerprint, join_parts, leave_apart, Manifest, ManifestEntry, size_of
from .plan import make_plan, Plan
from .reader import BagReader
from .recording import BagFile, LAST_TIME, METADATA, Recording
from .request import ExtractRequest
from .writers import FILES, full_disk, InUseError, remove, storage_for
from ..errors import DataError, KpfeatError
from ..factory import check_device
from ..provenance import describe_run, digest

if TYPE_CHECKING:
    from ..models.base import Extractor

PAUSES = (1.0, 5.0, 20.0)  # seconds before what may pass is tried again
ENDINGS = {'npz': '', 'h5': '.h5', 'colmap': '.db'}
STORAGE_ENDINGS = {'mcap': '.mcap', 'sqlite3': '.db3'}
OTHER = ('source', 'out', 'model', 'weights', 'device', 'options', 'view')  # told elsewhere
COUNTS = ('images', 'features', 'keypoints', 'copied')
OnImage = Callable[[BagReport], None]
T = TypeVar('T')
_loaded: dict[str, 'Extractor'] = {}  # the one that this process used last, by key


@dataclass(frozen=True)
class Batch:
    """
    What is asked of many recordings, and plain enough to be sent elsewhere.

    request: of each file; its `out` is the folder of all outputs, its `source` means nothing. key:
    of the settings in the manifest. cpus: cores for a part, on which the last digits of features
    depend. verify: whether outputs that are there are hashed, rather than only measured.
    """

    request: ExtractRequest
    key: str
    cpus: float = 1.0
    verify: bool = False

    def target(self, file: BagFile) -> Path:
        """Return where the features of a part go."""
        storage = STORAGE_ENDINGS[storage_for(Path(), self.request.storage)]
        ending = ENDINGS.get(self.request.format, storage)
        return self.request.out / f'{file.name}{ending}'

    def input(self, file: BagFile) -> dict[str, Any]:
        """Return what tells, at a glance, whether a part is what it was."""
        path = self.relative(file.path)
        try:
            stat = file.path.stat()
        except OSError:  # told where it is read
            return {'path': path}
        return {'path': path, 'size': stat.st_size, 'mtime_ns': stat.st_mtime_ns}

    def relative(self, path: Path) -> str:
        """Return a path as it stands in the manifest."""
        return Path(os.path.relpath(path, self.request.out)).as_posix()


class Task(NamedTuple):
    """A part that is to be done, or at least looked at; before: what the manifest tells of it."""

    file: BagFile
    before: ManifestEntry | None = None


class Result(NamedTuple):
    """
    What came of a task.

    fresh: whether it was done now, rather than found as it should be. images: that were done now,
    rather than by a run that was stopped. seconds: that it took.
    """

    file: BagFile
    entry: ManifestEntry
    fresh: bool = True
    images: int = 0
    seconds: float = 0.0


def settings_of(request: ExtractRequest, extractor: 'Extractor') -> dict[str, Any]:
    """Return all that results depend on beside the recordings, as plain values."""
    asked = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in OTHER}
    settings = {'name': request.model, 'device': torch.device(request.device).type}
    return describe_run(extractor, view=request.view, request=asked, **settings)


def key_of(settings: Mapping[str, Any]) -> str:
    """Return a short name for settings."""
    return digest(settings)[:16]


def untouched(batch: Batch, task: Task) -> bool:
    """Return whether a part was done before and looks, at a glance, as it did then."""
    before = task.before
    if before is None or before.error or before.settings != batch.key or batch.verify:
        return False
    return _seen(before) == batch.input(task.file) and _same_output(batch, task)


def survey(recording: Recording) -> BagReader | str:
    """Return what is known about a whole recording, or why nothing is."""
    return _patiently(partial(BagReader, recording))


def work(
    batch: Batch, task: Task, whole: BagReader | str, on_image: OnImage = lambda report: None
) -> Result:
    """
    Do a part, unless it is as it should be already; an error becomes an entry as well.

    whole: what `survey` found.
    """
    began = time.perf_counter()
    with _threads(max(1, int(batch.cpus))):
        found = _patiently(partial(_work, batch, task, whole, on_image))
    seconds = time.perf_counter() - began
    if isinstance(found, str):
        return failure(batch, task.file, found, seconds)
    return found._replace(seconds=seconds)


def failure(batch: Batch, file: BagFile, sentence: str, seconds: float = 0.0) -> Result:
    """Return the result of a part that could not be done."""
    entry = ManifestEntry(batch.input(file), batch.key, error=sentence)
    return Result(file, entry, seconds=seconds)


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


def _work(batch: Batch, task: Task, whole: BagReader | str, on_image: OnImage) -> Result:
    if isinstance(whole, str):
        raise DataError(whole)
    file, target, given = task.file, batch.target(task.file), batch.input(task.file)
    request = replace(batch.request, source=file.path, out=target)
    plan = make_plan(request, BagReader(file.path), whole)
    check_range(plan)
    context = _context(request, plan)
    incomplete = _incomplete(whole) if file.is_last else []
    if task.before and _as_it_should_be(batch, task, context):
        given['sha256'] = task.before.input['sha256']
        return Result(file, replace(task.before, input=given, incomplete=incomplete), fresh=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():  # of files that are not replaced in one step
        remove(target)
    report = extract_recording(request, _extractor(batch), on_image, plan)
    _, read = fingerprint(file.path)
    if batch.input(file) != given:
        raise DataError(f"'{file.path}' was changed while it was read")
    size, made = fingerprint(target)
    entry = ManifestEntry(
        {**given, 'sha256': read},
        batch.key,
        {'path': batch.relative(target), 'size': size, 'sha256': made},
        context,
        {name: getattr(report, name) for name in COUNTS},
        dict(report.skipped),
        report.reasons,
        [str(damage) for damage in report.damage],
        incomplete,
    )
    return Result(file, entry, images=report.images - report.resumed)


def _context(request: ExtractRequest, plan: Plan) -> dict[str, Any]:
    """Return what results depend on that the recording tells, without what says nothing."""
    copied = [topic.name for topic in copies_of(request, plan).topics]
    context = plan.describe() | {'copied': copied}
    if context['range'] == [0, LAST_TIME]:
        context['range'] = []
    return {name: value for name, value in context.items() if value}


def _incomplete(whole: BagReader) -> list[str]:
    """Return what a recording lacks that is not damage of one of its files."""
    return [str(one) for one in whole.damage if one.path not in whole.recording.files]


def _as_it_should_be(batch: Batch, task: Task, context: Mapping[str, Any]) -> bool:
    file, before = task
    if before.error or (before.settings, before.context) != (batch.key, context):
        return False
    if not _same_output(batch, task):
        return False
    if batch.verify and fingerprint(batch.target(file))[1] != before.output['sha256']:
        return False
    if _seen(before) == batch.input(file):
        return True
    return fingerprint(file.path)[1] == before.input['sha256']


def _seen(before: ManifestEntry) -> dict[str, Any]:
    return {name: value for name, value in before.input.items() if name != 'sha256'}


def _same_output(batch: Batch, task: Task) -> bool:
    target, known = batch.target(task.file), task.before.output
    return known['path'] == batch.relative(target) and known['size'] == size_of(target)


def _extractor(batch: Batch) -> 'Extractor':
    if batch.key not in _loaded:
        _loaded.clear()
        extractor = load_extractor(batch.request)
        if key_of(settings_of(batch.request, extractor)) != batch.key:
            raise DataError(
                'kpfeat, torch, OpenCV or the weights are not the same on this machine as where '
                'the run was started; install the same on all'
            )
        _loaded[batch.key] = extractor
    return _loaded[batch.key]


@dataclass
class BatchReport:
    """
    What came of parts, by name, as it comes.

    images_now: images that were done now, rather than by an earlier run.
    """

    parts: Sequence[BagFile]
    results: dict[str, Result] = field(default_factory=dict)
    images_now: int = 0

    def add(self, result: Result) -> None:
        """Note what came of a part."""
        self.results[result.file.name] = result
        self.images_now += result.images

    @property
    def entries(self) -> dict[str, ManifestEntry]:
        """Return what the manifest tells of these parts."""
        return {name: self.results[name].entry for name in sorted(self.results)}

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of the parts that were done now, rather than found as they should."""
        results = self.results.items()
        return {name: one.seconds for name, one in results if one.fresh and one.entry.done}

    @property
    def failed(self) -> dict[str, str]:
        """Return the errors of the parts that failed."""
        return {name: entry.error for name, entry in self.entries.items() if entry.error}

    @property
    def done(self) -> int:
        """Return how many parts are done, now or before."""
        return sum(one.entry.done for one in self.results.values())

    @property
    def skipped(self) -> int:
        """Return how many images could not be used."""
        return sum(sum(one.entry.skipped.values()) for one in self.results.values())

    @property
    def damaged(self) -> int:
        """Return how many parts could not be read as a whole."""
        return sum(bool(one.entry.all_damage) for one in self.results.values())

    @property
    def complete(self) -> bool:
        """Return whether all parts are done, everything was read and every image used."""
        return all(one.entry.complete for one in self.results.values())

    def total(self, name: str) -> int:
        """Return the sum of a count, such as images."""
        return sum(one.entry.counts.get(name, 0) for one in self.results.values())

    def by_recording(self) -> Iterator[tuple[str, 'BatchReport']]:
        """Yield the name of each recording and what came of its parts."""
        for group, members in itertools.groupby(self.parts, key=lambda file: file.group):
            one = BatchReport(list(members))
            for file in one.parts:
                if file.name in self.results:
                    one.add(self.results[file.name])
            yield group, one


CPUS_BESIDE_GPU = 4.0  # images are decoded by several threads


@runtime_checkable
class Runner(Protocol):
    """What works off tasks: in this process, or elsewhere."""

    def __enter__(self) -> 'Runner':
        """Begin."""

    def __exit__(self, *error: Any) -> None:
        """End, whatever became of the tasks."""

    def device(self, name: str) -> str:
        """Return the device that a name means where the work is done; raises ConfigError."""

    def results(self, batch: Batch, tasks: Iterable[Task]) -> Iterator[Result]:
        """Work off tasks, those of a recording in a row, and yield what comes of them."""


class InTurn:
    """Works off tasks one after the other. on_image is called for each image."""

    def __init__(self, on_image: OnImage = lambda report: None) -> None:
        self._on_image = on_image

    def __enter__(self) -> 'InTurn':
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def device(self, name: str) -> str:
        return str(check_device(name))

    def results(self, batch: Batch, tasks: Iterable[Task]) -> Iterator[Result]:
        for _, group in itertools.groupby(tasks, key=lambda task: task.file.group):
            whole = None
            for task in group:
                whole = whole or survey(task.file.recording)
                yield work(batch, task, whole, self._on_image)


def extract_batch(
    request: ExtractRequest,
    parts: Sequence[BagFile],
    runner: Runner,
    cpus: float = -1,
    verify: bool = False,
    on_result: Callable[[BatchReport], None] = lambda report: None,
) -> BatchReport:
    """
    Write the features of all parts below the folder `request.out`, with a manifest.

    What an earlier run did of the same inputs and options stays as it is. Parts that fail are
    noted and do not stop the others. A recording whose parts are all done gets a metadata.yaml.
    cpus: cores for a part; -1: 4 beside a GPU, else 1. verify: hash the outputs that are there.

    Raises KpfeatError for what would stop every part.
    """
    request.check()
    kept = f"what is done is kept in '{request.out}'"
    with full_disk(kept), Manifest(request.out) as manifest, runner:
        out, device = Path(os.path.abspath(request.out)), runner.device(request.device)
        request = request.rooted(out=out, device=device)
        settings = settings_of(request, load_extractor(replace(request, device='cpu')))
        if cpus < 0:
            cpus = 1.0 if request.device == 'cpu' else CPUS_BESIDE_GPU
        batch = Batch(request, key_of(settings), cpus, verify)
        manifest.settings[batch.key] = settings
        groups = _by_recording(parts, manifest)
        for tasks in groups.values():
            _check_names(batch, tasks)
        report = BatchReport(parts)
        waiting = _waiting(batch, groups, report)
        on_result(report)
        with closing(runner.results(batch, itertools.chain(*waiting.values()))) as results:
            for result in results:
                manifest.add(result.file.name, result.entry)
                report.add(result)
                _join_if_done(batch, groups[result.file.group], report)
                on_result(report)
    return report


def _by_recording(parts: Sequence[BagFile], manifest: Manifest) -> dict[str, list[Task]]:
    groups: dict[str, list[Task]] = {}
    for file in parts:
        task = Task(file, manifest.entries.get(file.name))
        groups.setdefault(file.group, []).append(task)
    return groups


def _check_names(batch: Batch, tasks: Sequence[Task]) -> None:
    """Refuse to write over the features of other recordings; raises DataError."""
    folder = batch.request.out / tasks[0].file.group
    if not any(task.before for task in tasks) and (folder / METADATA).exists():
        raise DataError(
            f"'{folder}' is a recording that the manifest does not tell of; choose another --out"
        )
    for file, before in tasks:
        known = batch.request.out / before.input['path'] if before else file.path
        if batch.relative(known) != batch.relative(file.path) and known.exists():
            raise DataError(
                f"'{batch.target(file)}' holds the features of '{os.path.normpath(known)}', which "
                f"'{file.path}' would replace; give the folder above both, or choose another --out"
            )


def _waiting(
    batch: Batch, groups: dict[str, list[Task]], report: BatchReport
) -> dict[str, list[Task]]:
    """Return the tasks of recordings of which a part is to be done, and note the others."""
    waiting = {}
    for group, tasks in groups.items():
        if all(untouched(batch, task) for task in tasks):
            for file, before in tasks:
                report.add(Result(file, before, fresh=False))
            _join_if_done(batch, tasks, report)
        else:  # a part that changed may change what others depend on
            leave_apart(batch.request.out / group)
            waiting[group] = tasks
    return waiting


def _join_if_done(batch: Batch, tasks: Sequence[Task], report: BatchReport) -> None:
    results = [report.results.get(task.file.name) for task in tasks]
    files = [batch.target(task.file) for task in tasks]
    done = files[0].suffix in FILES and all(one and one.entry.done for one in results)
    if done and not (files[0].parent / METADATA).is_file():
        join_parts(files)
