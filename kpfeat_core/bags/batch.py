"""What became of the parts of many recordings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
import itertools
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .extract import Extraction, load
from .flow import said_if_full
from .formats import check_options
from .manifest import Entry, Manifest
from .parts import join_parts, leave_apart, Part
from .recording import METADATA
from .tasks import Fleet, Job, key_of, OnStep, Result, settings_of, survey, untouched, work
from .writers import FILES
from ..errors import DataError
from ..factory import check_device


@dataclass
class FleetReport:
    """
    What came of parts, by name, as it comes.

    images_now: images that were done now, rather than by an earlier run.
    """

    parts: Sequence[Part]
    results: dict[str, Result] = field(default_factory=dict)
    images_now: int = 0

    def add(self, result: Result) -> None:
        """Note what came of a part."""
        self.results[result.part.name] = result
        self.images_now += result.images

    @property
    def entries(self) -> dict[str, Entry]:
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
        """Say whether all parts are done, everything was read and every image used."""
        return all(one.entry.complete for one in self.results.values())

    def total(self, name: str) -> int:
        """Return the sum of a count, such as images."""
        return sum(one.entry.counts.get(name, 0) for one in self.results.values())

    def by_recording(self) -> Iterator[tuple[str, 'FleetReport']]:
        """Yield the name of each recording and what came of its parts."""
        for group, members in itertools.groupby(self.parts, key=lambda part: part.group):
            one = FleetReport(list(members))
            for part in one.parts:
                if part.name in self.results:
                    one.add(self.results[part.name])
            yield group, one


CPUS_BESIDE_GPU = 4.0  # images are decoded by several threads


@runtime_checkable
class Runner(Protocol):
    """What works off jobs: in this process, or elsewhere."""

    def __enter__(self) -> 'Runner':
        """Begin."""

    def __exit__(self, *error: Any) -> None:
        """End, whatever became of the jobs."""

    def device(self, name: str) -> str:
        """Return the device that a name means where the work is done; raises ConfigError."""

    def results(self, fleet: Fleet, jobs: Iterable[Job]) -> Iterator[Result]:
        """Work off jobs, those of a recording in a row, and yield what comes of them."""


class InTurn:
    """Works off jobs one after the other. on_step is called for each image."""

    def __init__(self, on_step: OnStep = lambda report: None) -> None:
        self._on_step = on_step

    def __enter__(self) -> 'InTurn':
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def device(self, name: str) -> str:
        return str(check_device(name))

    def results(self, fleet: Fleet, jobs: Iterable[Job]) -> Iterator[Result]:
        for _, group in itertools.groupby(jobs, key=lambda job: job.part.group):
            whole = None
            for job in group:
                whole = whole or survey(job.part.recording)
                yield work(fleet, job, whole, self._on_step)


def extract_fleet(
    wanted: Extraction,
    parts: Sequence[Part],
    runner: Runner,
    cpus: float = -1,
    verify: bool = False,
    on_result: Callable[[FleetReport], None] = lambda report: None,
) -> FleetReport:
    """
    Write the features of all parts below the folder `wanted.out`, with a manifest.

    What an earlier run did of the same inputs and options stays as it is. Parts that fail are
    noted and do not stop the others. A recording whose parts are all done gets a metadata.yaml.
    cpus: cores for a part; -1: 4 beside a GPU, else 1. verify: hash the outputs that are there.

    Raises KpfeatError for what would stop every part.
    """
    check_options(wanted)
    kept = f"what is done is kept in '{wanted.out}'"
    with said_if_full(lambda: kept), Manifest(wanted.out) as manifest, runner:
        wanted = replace(_rooted(wanted), device=runner.device(wanted.device))
        settings = settings_of(wanted, load(replace(wanted, device='cpu')))
        if cpus < 0:
            cpus = 1.0 if wanted.device == 'cpu' else CPUS_BESIDE_GPU
        fleet = Fleet(wanted, key_of(settings), cpus, verify)
        manifest.settings[fleet.key] = settings
        groups = _by_recording(parts, manifest)
        for jobs in groups.values():
            _check_names(fleet, jobs)
        report = FleetReport(parts)
        waiting = _waiting(fleet, groups, report)
        on_result(report)
        with closing(runner.results(fleet, itertools.chain(*waiting.values()))) as results:
            for result in results:
                manifest.add(result.part.name, result.entry)
                report.add(result)
                _join_if_done(fleet, groups[result.part.group], report)
                on_result(report)
    return report


def _rooted(wanted: Extraction) -> Extraction:
    """Return what is wanted with paths that mean the same wherever the work is done."""
    view, rooted = wanted.view, lambda path: path and os.path.abspath(path)
    view = replace(view, mask=rooted(view.mask), calibration_file=rooted(view.calibration_file))
    out = Path(os.path.abspath(wanted.out))
    return replace(wanted, out=out, weights=rooted(wanted.weights), view=view)


def _by_recording(parts: Sequence[Part], manifest: Manifest) -> dict[str, list[Job]]:
    groups: dict[str, list[Job]] = {}
    for part in parts:
        job = Job(part, manifest.entries.get(part.name))
        groups.setdefault(part.group, []).append(job)
    return groups


def _check_names(fleet: Fleet, jobs: Sequence[Job]) -> None:
    """Refuse to write over the features of other recordings; raises DataError."""
    folder = fleet.wanted.out / jobs[0].part.group
    if not any(job.before for job in jobs) and (folder / METADATA).exists():
        raise DataError(
            f"'{folder}' is a recording that the manifest does not tell of; choose another --out"
        )
    for part, before in jobs:
        known = fleet.wanted.out / before.input['path'] if before else part.file
        if fleet.relative(known) != fleet.relative(part.file) and known.exists():
            raise DataError(
                f"'{fleet.target(part)}' holds the features of '{os.path.normpath(known)}', which "
                f"'{part.file}' would replace; give the folder above both, or choose another --out"
            )


def _waiting(
    fleet: Fleet, groups: dict[str, list[Job]], report: FleetReport
) -> dict[str, list[Job]]:
    """Return the jobs of recordings of which a part is to be done, and note the others."""
    waiting = {}
    for group, jobs in groups.items():
        if all(untouched(fleet, job) for job in jobs):
            for part, before in jobs:
                report.add(Result(part, before, fresh=False))
            _join_if_done(fleet, jobs, report)
        else:  # a part that changed may change what others depend on
            leave_apart(fleet.wanted.out / group)
            waiting[group] = jobs
    return waiting


def _join_if_done(fleet: Fleet, jobs: Sequence[Job], report: FleetReport) -> None:
    results = [report.results.get(job.part.name) for job in jobs]
    files = [fleet.target(job.part) for job in jobs]
    done = files[0].suffix in FILES and all(one and one.entry.done for one in results)
    if done and not (files[0].parent / METADATA).is_file():
        join_parts(files)
