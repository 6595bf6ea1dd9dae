"""Every option of every part, in frozen dataclasses: the only place where a default is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
import difflib
import math
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar('T')

DEFAULT_MODEL = 'alike-t'
PRECISIONS = ('float32', 'float16', 'bfloat16')  # names of torch
AUTO = 'auto'  # of an option that shapes a network: as the weights need it


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    live: bool = False,
) -> Any:
    """
    Declare one option: its default, one sentence, its bounds, and whether it may change live.

    The command line, ROS parameters and YAML files are generated from this record.
    """
    record = {'help': help, 'low': low, 'high': high, 'choices': choices, 'live': live}
    return field(default=default, metadata=record)


def enlarge_to(default: int) -> Any:
    """Declare the option of this name, in the same words for every extractor."""
    return option(
        default,
        'enlarge images whose long side is shorter to this, at most to twice their size: more '
        'precise, and slower; -1 never does',
        low=-1,
        live=True,
    )


@dataclass(frozen=True)
class ExtractorConfig:
    """How an image becomes keypoints, for any extractor."""

    max_num_keypoints: int = option(
        1024, 'keep the best N keypoints of an image; -1 keeps all', low=-1, live=True
    )
    detection_threshold: float = option(
        0.0,
        'drop maxima of the score map at or below this; refined, they may score less',
        low=0.0,
        high=1.0,
        live=True,
    )
    nms_radius: int = option(
        2, 'keep only the best keypoint within this many pixels', low=0, high=64, live=True
    )
    remove_borders: int = option(
        4, 'drop keypoints closer than this to the image border, in pixels', low=0, live=True
    )
    sub_pixel: bool = option(True, 'refine keypoints to sub-pixel positions', live=True)
    resize: int = option(
        -1,
        'resize the long side to this before extraction; -1 keeps the size, or does as enlarge_to',
        low=-1,
        live=True,
    )
    enlarge_to: int = enlarge_to(-1)
    multi_scale: bool = option(
        False, 'extract on an image pyramid as well: slower, more robust to zoom', live=True
    )


@dataclass(frozen=True)
class ViewConfig:
    """What an extractor sees of images, and in which pixels its keypoints are said."""

    roi_x_offset: int = option(
        0, 'left edge of the region of interest, in pixels of the image', low=0, live=True
    )
    roi_y_offset: int = option(
        0, 'upper edge of the region of interest, in pixels of the image', low=0, live=True
    )
    roi_width: int = option(
        -1, 'width of the region of interest; -1 reaches to the right edge', low=-1, live=True
    )
    roi_height: int = option(
        -1, 'height of the region of interest; -1 reaches to the lower edge', low=-1, live=True
    )
    binning: int = option(
        1,
        'average N x N pixels into one before extraction; keypoints stay in pixels of the image',
        low=1,
        high=16,
        live=True,
    )
    pixel_bits: int = option(
        16,
        'bits that images of 16 bits use: 10, 12 or 14 where the camera has fewer; 0 stretches '
        'each image from its darkest to its brightest pixels, as those of thermal cameras need',
        low=0,
        high=16,
        live=True,
    )
    mask: str = option(
        '',
        'picture of the size of the images: keypoints where it is black are dropped',
        live=True,
    )
    undistort: bool = option(
        False,
        'publish keypoints where a lens without distortion, with the same camera matrix, would '
        "show them; listens to 'camera_info' beside the images",
    )
    calibration_file: str = option(
        '', 'YAML file of camera_calibration, used by undistort in place of camera_info'
    )


@dataclass(frozen=True)
class MatcherConfig:
    """How two sets of descriptors become matches, and what `match_pair` verifies these with."""

    mutual: bool = option(True, 'keep only pairs that choose each other', live=True)
    ratio_threshold: float = option(
        1.0,
        "keep a match only if its distance is below this times the second best's; 1 keeps all",
        low=0.0,
        high=1.0,
        live=True,
    )
    min_similarity: float = option(
        -1.0, 'drop matches with a lower cosine similarity; -1 keeps all', -1.0, 1.0, live=True
    )
    geometry: str = option(
        'homography',
        'model that the matches are verified with',
        choices=('none', 'homography', 'fundamental'),
        live=True,
    )
    ransac_threshold_px: float = option(
        3.0, 'largest error of an inlier in pixels', low=0.01, high=100.0, live=True
    )


def _problem(name: str, value: Any, record: Any) -> str | None:
    """Say in words why a value is not allowed; None where it is."""
    wanted = record.type if isinstance(record.type, type) else type(record.default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        return f'{name} is {value!r}, expected {wanted.__name__}'
    low, high = record.metadata.get('low'), record.metadata.get('high')
    choices = record.metadata.get('choices')
    if wanted is float and not math.isfinite(value):
        return f'{name} is {value}, expected a finite number'
    if low is not None and value < low:
        return f'{name} is {value}, expected at least {low}'
    if high is not None and value > high:
        return f'{name} is {value}, expected at most {high}'
    if choices is not None and value not in choices:
        return f"{name} is '{value}', expected one of {', '.join(choices)}"
    return None


def check_config(config: Any) -> None:
    """Raise ConfigError that lists every option whose type or range is wrong."""
    found = [_problem(f.name, getattr(config, f.name), f) for f in fields(config)]
    problems = [text for text in found if text]
    if problems:
        raise ConfigError('; '.join(problems))


def make_config(cls: type[T], options: Mapping[str, Any]) -> T:
    """Build and check a configuration; ConfigError names unknown options and the nearest ones."""
    names = [f.name for f in fields(cls)]
    unknown = [name for name in options if name not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ';'
        raise ConfigError(
            f"unknown option '{unknown[0]}'{hint} {cls.__name__} has: {', '.join(names)}"
        )
    config = cls(**options)
    check_config(config)
    return config


def parse_options(texts: Sequence[str], *classes: type) -> dict[str, Any]:
    """Turn KEY=VALUE words into typed options of configuration classes; raises ConfigError."""
    types = {f.name: type(f.default) for cls in classes for f in fields(cls)}
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition('=')
        if not equals:
            raise ConfigError(f"got '{text}', expected KEY=VALUE such as nms_radius=4")
        kind = types.get(name, str)
        try:
            options[name] = _parse_value(value, kind)
        except ValueError:
            raise ConfigError(f"{name} is '{value}', expected {kind.__name__}") from None
    return options


def _parse_value(text: str, kind: type) -> Any:
    if kind is not bool:
        return kind(text)
    words = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]
