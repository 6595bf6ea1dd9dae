"""What is asked of a recording: the options of all verbs of `kpfeat bag`, and their defaults."""

from dataclasses import dataclass, field, replace
import os
from pathlib import Path
from typing import Any

from ..config import (
    AUTO,
    check_config,
    DEFAULT_MODEL,
    DESCRIPTOR_TYPES,
    MatcherConfig,
    option,
    ViewConfig,
)
from ..errors import ConfigError, DataError

FORMATS = {
    'bag': 'messages',
    'npz': 'a file for each image, CAMERA/STAMP.npz',
    'h5': 'one file in the layout of hloc',
    'colmap': 'a database of COLMAP, to be matched by it',
    'rtabmap': 'messages RGBDImage, of images with their features',
}
RECORDINGS = ('bag', 'rtabmap')  # formats that are recordings
# Endings of names, and the formats that they fit; all others fit any.
NAMES = {'.mcap': RECORDINGS, '.db3': RECORDINGS, '.h5': ('h5',), '.db': ('colmap',)}
# An option that has a meaning with one format alone.
ONLY_WITH = {'annotations': 'bag', 'pictures': 'colmap', 'depth': 'rtabmap'}
KEYPOINTS, TRACKS, MATCHES = SHOWN = ('keypoints', 'tracks', 'matches')


@dataclass(frozen=True, kw_only=True)
class FramesRequest:
    """
    Which images of a recording are meant, and where their features come from.

    model '': the features recorded in `features` or in the recording itself; where there are none,
    they are made by the default model. options: of the extractor. Raises ConfigError.
    """

    source: Path = field(kw_only=False)
    features: str = option('', 'recording with the features, as `kpfeat bag extract` writes it')
    topics: tuple = option((), 'topics to take; by default all but depth images')
    start: str = option('', 'begin here: seconds from the first message, or since 1970')
    end: str = option('', 'end before this: seconds as for --start')
    stride: int = option(1, 'take every k-th image of a topic', low=1)
    model: str = option(
        '',
        'model that makes the features; by default the recorded ones are taken, and '
        f'{DEFAULT_MODEL} where there are none',
    )
    weights: str = option('', 'weight file; else $KPFEAT_WEIGHTS, else the bundled one')
    device: str = option('cpu', 'cpu, cuda, cuda:N, mps, or auto for a GPU if there is one')
    batch_size: int = option(
        -1, 'images that go through the network together; -1: 8 on a GPU, else 1', low=-1
    )
    options: dict = field(default_factory=dict)
    view: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        if self.batch_size < -1 or self.batch_size == 0:
            raise ConfigError(
                f'batch_size is {self.batch_size}, expected at least 1, or -1 for what the device '
                'is best at'
            )
        check_config(self)

    def rooted(self, **changes: Any) -> Any:
        """Return the same request with paths that mean the same wherever the work is done."""
        view, rooted = self.view, lambda path: path and os.path.abspath(path)
        view = replace(
            view, mask=rooted(view.mask), calibration_file=rooted(view.calibration_file)
        )
        return replace(self, weights=rooted(self.weights), view=view, **changes)


@dataclass(frozen=True, kw_only=True)
class OutputRequest(FramesRequest):
    """A request whose features are written; copy: topics of the input, '*' for all."""

    out: Path = field(kw_only=False)
    storage: str = option(
        '',
        'how a recording is stored; by default by the name of --out, else mcap',
        choices=('', 'mcap', 'sqlite3'),
    )
    copy: tuple = option((), "topics of the input to copy, '*' for all")
    descriptor_type: str = option(
        'float32',
        'how descriptors are stored in messages',
        choices=DESCRIPTOR_TYPES,
    )


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(OutputRequest):
    """Features of all chosen images, always made anew."""

    features: str = ''
    model: str = option(DEFAULT_MODEL, 'model name; see `kpfeat weights list`')
    format: str = option(
        'bag',
        '; '.join(f'{name}: {meaning}' for name, meaning in FORMATS.items()),
        choices=tuple(FORMATS),
    )
    annotations: bool = option(
        False,
        'with the format bag: keypoints to be shown by Foxglove over the images as well, on '
        'image_annotations beside features',
    )
    pictures: bool = option(False, 'with the format colmap: write the images too, to OUT.images')
    depth: str = option(
        '', 'with the format rtabmap: topic of depth images in the pixels of the images'
    )

    def check(self) -> None:
        """Raise DataError for options that do not go together."""
        fitting = NAMES.get(self.out.suffix, (self.format,))
        if self.format not in fitting:
            raise DataError(
                f"--out is '{self.out}', a name for --format {fitting[0]}, and the format is "
                f'{self.format}; change one of them'
            )
        for name, form in ONLY_WITH.items():
            if getattr(self, name) and self.format != form:
                raise DataError(
                    f'--{name} goes with --format {form}, and the format is {self.format}'
                )
        if self.copy and self.format not in RECORDINGS:
            raise DataError(f'topics cannot be copied to {self.format}; use the format bag')
        if self.view.undistort and (self.pictures or self.format == 'rtabmap'):
            raise DataError(
                'keypoints without distortion do not fit the images, which keep theirs, and both '
                'go into the output; leave out --undistort'
            )


@dataclass(frozen=True)
class PairingConfig:
    """Which images are matched."""

    every: int = option(1, 'match each image with the k-th before it; 1: the one before', low=1)
    keyframes: bool = option(False, 'match each image with a keyframe instead')
    # With the bundled model about half of the matches or more still agree there with a homography
    # or a fundamental matrix, on a slow recording as on a fast one.
    keyframe_share: float = option(
        0.25,
        'a keyframe serves as long as this share of its keypoints are inliers of the match',
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        if self.keyframes and self.every != 1:
            raise ConfigError(
                f'every is {self.every} beside keyframes, expected one of the two: an image is '
                'matched with a keyframe or with the k-th before it'
            )


@dataclass(frozen=True, kw_only=True)
class MatchRequest(OutputRequest):
    """Features of all chosen images, and matches of each with an earlier one."""

    pairing: PairingConfig = field(default_factory=PairingConfig)
    matcher: MatcherConfig = field(default_factory=MatcherConfig)


@dataclass(frozen=True)
class RenderConfig:
    """What pictures of a recording show."""

    show: str = option(
        AUTO,
        'what is drawn; matches stand beside the image before; auto: tracks, and keypoints where '
        'only a sheet is made',
        choices=(AUTO, *SHOWN),
    )
    speed: float = option(1.0, 'how many times as fast a video plays', low=0.01, high=1000.0)
    max_width: int = option(
        1280, 'reduce wider pictures of a video to this many pixels', low=64, high=16384
    )
    tiles: int = option(12, 'pictures of a sheet, spread evenly over time', low=1, high=1000)
    max_matches: int = option(200, 'draw the best N matches of a pair; -1 draws all', low=-1)
