"""
Features of every image of a recording, and how an output grows so that a killed run goes on.

An output grows in a folder beside its place, `.NAME.partial`, which also holds what was asked for
(`request.json`) and a line for each batch of images (`done.jsonl`) with what the output cannot
tell itself, such as images that were skipped. A run that was killed goes on from there.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
import json
from pathlib import Path
import shutil
from typing import Any, TYPE_CHECKING

from .formats import made_topics, make_sink
from .frames import BagReport, FeatureFrame, Frames, load_extractor
from .plan import Copies, make_plan, Plan
from .reader import BagReader
from .recording import Damage, LAST_TIME
from .request import ExtractRequest, RECORDINGS
from .writers import check_target, full_disk, lock, LogEntry, Sink
from ..errors import DataError

if TYPE_CHECKING:
    from ..models.base import Extractor


def extract_recording(
    request: ExtractRequest,
    extractor: 'Extractor | None' = None,
    on_image: Callable[[BagReport], None] = lambda report: None,
    plan: Plan | None = None,
) -> BagReport:
    """
    Write the features of every image of a recording, once and in the order of log time.

    extractor: the one that `request` describes, where it is loaded already. on_image is called at
    the start and after each image. plan: for one file of a recording, which may hold no image.

    Raises KpfeatError; at `out` there is nothing then, or what was there before.
    """
    request.check()
    plan = plan or make_plan(request, BagReader(request.source))
    check_range(plan)
    copies = copies_of(request, plan)
    source = plan.reader.recording
    check_target(request.out, [source], recording=request.format in RECORDINGS)
    lacking: list[Damage] = []
    sink = make_sink(request, plan, copies, lacking.append)
    frames = Frames(plan, extractor or load_extractor(request))
    report = BagReport(source.path, request.out, plan.total)
    report.leave_out(plan)

    def check() -> None:
        if report.images or not plan.is_part:
            report.check(plan.reader.damage)

    output = {name: getattr(request, name) for name in OUTPUT}
    settings = frames.describe(output=output)
    write_frames(request.out, settings, sink, frames.lists, copies, report, on_image, check)
    report.damage = plan.reader.damage + copies.left_out + lacking
    return report


# Options that decide what an output holds, beside those of its frames.
OUTPUT = ('format', 'storage', 'copy', 'annotations', 'pictures', 'depth')


def check_range(plan: Plan) -> None:
    """Raise DataError where a recording has no message in the range that is asked for."""
    whole = plan.whole
    if plan.start > whole.end or plan.stop <= whole.start:
        raise DataError(
            f"no image of '{whole.recording.path}' could be used: there is none in this range"
        )


def copies_of(request: ExtractRequest, plan: Plan) -> Copies:
    """Return what is copied beside the features; raises DataError."""
    made = made_topics(request, list(plan.names.values()))
    return Copies(plan.reader, request.copy, set(made), plan.start, plan.stop, plan.whole)


class ResumeLog:
    """
    What an unfinished output cannot tell itself, in the folder in which it grows.

    settings: all that the results depend on; what an earlier run left of others is thrown away,
    and `discarded` says so. Use as a context manager; raises InUseError where another process is
    at work in the folder.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f'.{out.name}.partial')
        self.count = 0  # images that are done
        self.discarded = False
        self._settings = json.dumps(settings, sort_keys=True, indent=1)
        self._path = self.folder / 'done.jsonl'

    def __enter__(self) -> 'ResumeLog':
        self._file = lock(self._path)
        try:
            path = self.folder / 'request.json'
            if not path.is_file() or path.read_text(encoding='utf-8') != self._settings:
                self.discarded = self.resumes
                self._file.truncate(0)
                path.write_text(self._settings, encoding='utf-8')
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        with suppress(OSError), self._file:  # a full disk, which is told already
            if self._path.is_file() and not self.resumes:
                self.remove()

    @property
    def resumes(self) -> bool:
        """Return whether an earlier run has done something."""
        return self._path.stat().st_size > 0

    def __str__(self) -> str:
        return f"{self.count} images are done and kept in '{self.folder}'"

    def recalled(self, sink: Sink) -> Iterator[list[FeatureFrame]]:
        """Yield what earlier runs finished, in order, as far as the output still has it."""
        size = 0
        with self._path.open('rb') as file:
            for line in file:
                try:
                    frames = sink.recall(json.loads(line))
                except (ValueError, KeyError, TypeError):  # cut off where the process was killed
                    break
                if not frames or frames[0].index != self.count:
                    break
                self.count += len(frames)
                size += len(line)
                yield frames
        self._file.truncate(size)
        sink.forget()

    def add(self, frames: Sequence[FeatureFrame], entries: Sequence[LogEntry]) -> None:
        """Note that frames are done, which belong together: all of them, or none if it fails."""
        said = [_entry(*one) for one in zip(frames, entries, strict=True)]
        self._file.write(json.dumps(said) + '\n')
        self._file.flush()
        self.count += len(frames)

    def remove(self) -> None:
        """Remove the folder, when the output is at its place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_frames(
    out: Path,
    settings: Mapping[str, Any],
    sink: Sink,
    lists: Callable[[int], Generator[list[FeatureFrame], None, None]],
    copies: Copies,
    report: BagReport,
    on_image: Callable[[Any], None],
    check: Callable[[], None],
    recall: Callable[[FeatureFrame], None] = lambda frame: None,
) -> None:
    """
    Write frames to a sink: those that an earlier run finished, then those that are still to do.

    settings: all that the frames depend on. lists: given the index of the first frame that is
    left, yields it and all after it, in lists that are kept together. copies: messages of the
    input, which are put between by time. report: counts; on_image is called at the start and after
    each image. check: raises DataError where the output is not to be. recall: is given each frame
    of an earlier run.

    Raises DataError where the disk is full; what is done stays, and a later run goes on from it.
    """
    with ResumeLog(out, settings) as log, full_disk(log):
        report.discarded = log.discarded
        on_image(report)

        def take(frames: list[FeatureFrame]) -> list[LogEntry]:
            entries = []
            for frame in frames:
                for record in copies.until(frame.time):
                    sink.copy(record)
                entries.append(sink.add(frame))
            sink.flush()
            return entries

        def count(frames: list[FeatureFrame]) -> None:
            for frame in frames:
                report.add(frame)
                report.copied = copies.count
                on_image(report)

        try:
            sink.open(log.folder, log.resumes)
            with copies:
                if log.resumes:
                    for frames in log.recalled(sink):
                        take(frames)
                        for frame in frames:
                            recall(frame)
                        report.resumed = log.count
                        count(frames)
                with closing(lists(log.count)) as left:
                    for frames in left:
                        log.add(frames, take(frames))
                        count(frames)
                for record in copies.until(LAST_TIME):
                    sink.copy(record)
                report.copied = copies.count
            _check(check, log)
            sink.finish()
            log.remove()
        finally:
            sink.close()


def _check(check: Callable[[], None], log: ResumeLog) -> None:
    try:
        check()
    except DataError:  # what is kept would only lead to the same error
        log.remove()
        raise


def _entry(frame: FeatureFrame, entry: LogEntry) -> LogEntry:
    known = {'problem': frame.problem, 'counts': dict(frame.counts), **entry}
    known = {name: value for name, value in known.items() if value}
    return {'index': frame.index, 'time': frame.time, 'topic': frame.topic, **known}
