"""Features of every image of a recording: what is asked for, and what became of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TYPE_CHECKING

from .flow import run
from .formats import make_sink, RECORDINGS
from .plan import make_plan, Plan
from .processing import FeatureSteps
from .reader import BagReader
from .recording import Damage
from .settings import settings_of_input, settings_of_model, settings_of_view
from .steps import Journal, Step
from .writers import check_target
from ..config import DEFAULT_MODEL, ViewConfig
from ..errors import ConfigError, DataError
from ..messages.conversions import DescriptorType

if TYPE_CHECKING:
    from ..models.base import Extractor

GPU_BATCH = 8


@dataclass(frozen=True)
class Extraction:
    """
    What is asked for; all that the output depends on, and plain enough to be sent elsewhere.

    topics: of images; all where empty. start, end: as `records.in_time` reads them. stride: take
    every k-th image of a topic. format: bag, npz, h5, colmap or rtabmap. storage: mcap or sqlite3,
    '' by the name of `out`. copy: topics of the input that are copied, '*' for all. options: of
    the extractor. batch_size: images that go through the network together; -1: 8 on a GPU, 1 on a
    CPU. annotations: for Foxglove, beside the features of a bag. pictures: the images as files,
    beside a database of colmap. depth: topic of depth images for rtabmap, '' for none.
    """

    source: Path
    out: Path
    topics: tuple[str, ...] = ()
    start: str = ''
    end: str = ''
    stride: int = 1
    format: str = 'bag'
    storage: str = ''
    copy: tuple[str, ...] = ()
    model: str = DEFAULT_MODEL
    weights: str = ''
    device: str = 'cpu'
    options: Mapping[str, Any] = field(default_factory=dict)
    view: ViewConfig = field(default_factory=ViewConfig)
    descriptor_type: str = 'float32'
    batch_size: int = -1
    annotations: bool = False
    pictures: bool = False
    depth: str = ''

    def __post_init__(self) -> None:
        if self.batch_size < -1 or self.batch_size == 0:
            raise ConfigError(
                f'batch_size is {self.batch_size}, expected at least 1, or -1 for what the device '
                'is best at'
            )
        if self.stride < 1:
            raise ConfigError(f'stride is {self.stride}, expected at least 1')


@dataclass
class Report:
    """
    What became of a recording.

    total: images that there are to be, about. resumed: images that an earlier run had done.
    discarded: whether an earlier run with other options or input had left some, now thrown away.
    skipped: images by the kind of their problem; reasons: the first sentence of each kind.
    left_out: topics of depth images, which are taken where they are named.
    """

    source: Path
    out: Path
    total: int = 0
    images: int = 0
    features: int = 0
    keypoints: int = 0
    resumed: int = 0
    discarded: bool = False
    copied: int = 0
    skipped: Counter = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count one image."""
        self.images += 1
        self.features += bool(step.records)
        self.keypoints += step.counts.get('keypoints', 0)
        if step.problem:
            kind, sentence = step.problem
            self.skipped[kind] += 1
            self.reasons.setdefault(kind, sentence)

    def check(self, damage: Iterable[Damage]) -> None:
        """Raise DataError where not one image could be used; damage: of what was read."""
        if not self.features:
            why = self.first_reason(damage) or 'there is none in this range'
            raise DataError(f"no image of '{self.source}' could be used: {why}")

    def first_reason(self, damage: Iterable[Damage]) -> str:
        """Return why an image was skipped, or what was damaged; empty where nothing was."""
        return next((str(why) for why in (*self.reasons.values(), *damage)), '')

    @property
    def complete(self) -> bool:
        """Say whether everything was read and every image used."""
        return not self.skipped and not self.damage


def extract_recording(
    wanted: Extraction,
    extractor: 'Extractor | None' = None,
    on_step: Callable[[Report], None] = lambda report: None,
    plan: Plan | None = None,
) -> Report:
    """
    Write the features of every image of a recording, once and in the order of log time.

    extractor: the one that `wanted` describes, where it is loaded already. on_step is called at
    the start and after each image. plan: for a part of a recording, which may hold no image.

    Raises KpfeatError; at `out` there is nothing then, or what was there before.
    """
    plan = plan or make_plan(wanted, BagReader(wanted.source))
    recording = plan.reader.recording
    check_target(wanted.out, [recording], recording=wanted.format in RECORDINGS)
    extractor = extractor or load(wanted)
    batch = batch_size(wanted, extractor)
    report = Report(recording.path, wanted.out, plan.total)
    report.left_out = plan.left_out
    lacking: list[Damage] = []

    def count(step: Step) -> None:
        report.add(step)
        report.copied = plan.copies.count
        on_step(report)

    def live(first: int) -> Iterator[list[Step]]:
        report.resumed = first
        kind = DescriptorType[wanted.descriptor_type.upper()]
        maker = FeatureSteps(extractor, plan.shots, plan.names, wanted.model, kind, batch)
        return maker.steps(plan.start, plan.stop, first)

    def check() -> None:
        if report.images or not plan.is_part:
            report.check(plan.reader.damage)

    with Journal(wanted.out, _settings(wanted, plan, extractor, batch)) as journal:
        report.discarded = journal.discarded
        on_step(report)
        sink = make_sink(wanted, plan, journal.folder, lacking.append)
        run(journal, live, sink, plan.copies.records(plan.start, plan.stop), count, check)
    report.copied = plan.copies.count
    report.damage = plan.reader.damage + plan.copies.left_out + lacking
    return report


def load(wanted: Extraction) -> 'Extractor':
    """Load the extractor that is asked for; raises KpfeatError."""
    from ..factory import create_extractor

    # In a thread that ends with it: one that has run PyTorch keeps helpers, and where they are
    # more than the cores, OpenMP lets those of the inference sleep after every layer. That made
    # an image of 640x480 take 53 ms instead of 34 on two cores.
    with ThreadPoolExecutor(1) as pool:
        make = partial(create_extractor, wanted.model, wanted.weights, wanted.device)
        return pool.submit(make, **wanted.options).result()


def _settings(
    wanted: Extraction, plan: Plan, extractor: 'Extractor', batch_size: int
) -> dict[str, Any]:
    return {
        **settings_of_input(plan.reader),
        **plan.settings(),
        **settings_of_model(wanted.model, extractor),
        **settings_of_view(wanted.view),
        'stride': wanted.stride,
        'descriptor_type': wanted.descriptor_type,
        'batch_size': batch_size,
    }


def batch_size(wanted: Extraction, extractor: 'Extractor') -> int:
    """Return how many images go through the network together."""
    from ..models.base import FASTER_IN_BATCHES

    if wanted.batch_size > 0:
        return wanted.batch_size
    return GPU_BATCH if extractor.device.type in FASTER_IN_BATCHES else 1
