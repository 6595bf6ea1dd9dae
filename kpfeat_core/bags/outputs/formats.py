"""Which sink an extraction writes to, and the topics that it makes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .writing import BagSink, HlocSink, NpzSink, Sink
from ..records import Damage
from ...errors import DataError

if TYPE_CHECKING:
    from ..extraction import Extraction
    from ..planning import Plan

RECORDINGS = ('bag', 'rtabmap')  # formats that are recordings
# Endings of names, and the formats that they fit; all others fit any.
NAMES = {'.mcap': RECORDINGS, '.db3': RECORDINGS, '.h5': ('h5',), '.db': ('colmap',)}
# An option that has a meaning with one format alone.
ONLY_WITH = {'annotations': 'bag', 'pictures': 'colmap', 'depth': 'rtabmap'}


def check_options(wanted: 'Extraction') -> None:
    """Raise DataError for options that do not go together."""
    fitting = NAMES.get(wanted.out.suffix, (wanted.format,))
    if wanted.format not in fitting:
        raise DataError(
            f"--out is '{wanted.out}', a name for --format {fitting[0]}, and the format is "
            f'{wanted.format}; change one of them'
        )
    for option, form in ONLY_WITH.items():
        if getattr(wanted, option) and wanted.format != form:
            raise DataError(
                f'--{option} goes with --format {form}, and the format is {wanted.format}'
            )
    if wanted.copy and wanted.format not in RECORDINGS:
        raise DataError(f'topics cannot be copied to {wanted.format}; use the format bag')
    if wanted.view.undistort and (wanted.pictures or wanted.format == 'rtabmap'):
        raise DataError(
            'keypoints without distortion do not fit the images, which keep theirs, and both go '
            'into the output; leave out --undistort'
        )


def made_topics(wanted: 'Extraction', features: list[str]) -> list[str]:
    """Return the topics that an extraction makes: those of features, or in their place."""
    if wanted.format == 'rtabmap':
        return list(_beside(features, 'rgbd_image').values())
    annotations = _beside(features, 'image_annotations') if wanted.annotations else {}
    return [*features, *annotations.values()]


def make_sink(
    wanted: 'Extraction', plan: 'Plan', work: Path, note: Callable[[Damage], None]
) -> Sink:
    """
    Return what takes the features.

    note: is told of what the output lacks. Raises DataError.
    """
    if wanted.format == 'npz':
        return NpzSink(wanted.out, work)
    if wanted.format == 'h5':
        return HlocSink(wanted.out, work)
    if wanted.format == 'colmap':
        from .colmap import calibrations, ColmapSink

        known = calibrations(plan, wanted.view)
        bits = wanted.view.pixel_bits
        return ColmapSink(wanted.out, work, plan, known, wanted.pictures, bits)
    target = (wanted.out, wanted.storage, work)
    features = list(plan.names.values())
    if wanted.format == 'rtabmap':
        from .rtabmap import RtabmapSink

        copied = [topic.channel for topic in plan.copies.topics]
        topics = _beside(features, 'rgbd_image')
        return RtabmapSink(*target, copied, topics, plan, note)
    if wanted.annotations:
        from .annotations import AnnotatedSink

        return AnnotatedSink(*target, plan.channels, _beside(features, 'image_annotations'))
    return BagSink(*target, plan.channels)


def _beside(features: list[str], name: str) -> Mapping[str, str]:
    """Return the topic of another name beside each topic of features."""
    return {topic: f'{topic.removesuffix("features")}{name}' for topic in features}
