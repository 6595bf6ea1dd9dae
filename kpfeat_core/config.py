"""Every option of every part, in frozen dataclasses: the only place where a default is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, Field, field, fields, make_dataclass
import difflib
import math
from typing import Annotated, Any, get_args, get_origin, Literal, NamedTuple, TypeVar
import warnings

from .errors import ConfigError

T = TypeVar('T')

DEFAULT_MODEL = 'alike-t'
PRECISIONS = ('float32', 'float16', 'bfloat16')  # names of torch
DESCRIPTOR_TYPES = (  # as messages store them
    'float32',  # 4 bytes a number, exact
    'float16',  # 2 bytes a number
    'int8',  # 1 byte a number, times the scale of the message
    'binary',  # 1 bit a number: its sign; low bit first, rows filled up to whole bytes
)
GEOMETRIES = ('none', 'homography', 'fundamental')  # position = constant in Matches.msg
AUTO = 'auto'  # of an option that shapes a network: as the weights need it


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    live: bool = False,
    old: str = '',
    zero: bool = True,
) -> Any:
    """
    Declare one option: its default, one sentence, its bounds, and whether it may change live.

    old: the name that it had before, which stays readable for one release. The command line, ROS
    parameters and YAML files are generated from this record. zero: whether 0 is allowed, where it
    lies within the bounds.
    """
    details = {'low': low, 'high': high, 'choices': choices, 'live': live, 'old': old}
    details['zero'] = zero
    return field(default=default, metadata={'help': help, **details})


class Range(NamedTuple):
    """Bounds in the type of a field, `Annotated[float, Range(0, 1)]`, which its class explains."""

    low: float | None = None
    high: float | None = None


Share = Annotated[float, Range(0.0, 1.0)]
Positive = Annotated[float, Range(0.0)]  # or nothing


class OptionDescription(NamedTuple):
    """
    One option in full, from which flags, parameters, launch arguments and tables are made.

    kind: bool, int, float, str or tuple of str. low, high: bounds, None where there is none.
    choices: () for any value. live: whether it may change while a node runs. old: its name before.
    """

    name: str
    kind: type
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    live: bool
    old: str
    zero: bool = True

    @property
    def default_in_words(self) -> str:
        """Return the default as a reader sees it: yes, no, none, or the value."""
        if self.kind is bool:
            return 'yes' if self.default else 'no'
        return 'none' if self.default in ('', ()) else str(self.default)

    @property
    def allowed(self) -> str:
        """Return the choices or the bounds in words; '' where any value is allowed."""
        if self.choices:
            return ', '.join(filter(None, self.choices))
        low, high = (None if v is None else f'{v:,.12g}' for v in (self.low, self.high))
        if low is None:
            return '' if high is None else f'at most {high}'
        return f'{low} or more' if high is None else f'{low} to {high}'


def describe(record: Field) -> OptionDescription:
    """Return the description of a field that `option` declared, or whose type has a Range."""
    kind = record.type if isinstance(record.type, type) else type(record.default)
    details = {'low': None, 'high': None, 'live': False, 'help': '', 'old': '', **record.metadata}
    for bounds in getattr(record.type, '__metadata__', ()):
        details |= bounds._asdict()
    words = get_args(record.type) if get_origin(record.type) is Literal else ()
    details['choices'] = tuple(details.get('choices') or words)
    return OptionDescription(record.name, kind, record.default, **details)


def redefault(cls: type[T], **defaults: Any) -> type[T]:
    """
    Return a class to inherit from: the configuration `cls` with other defaults of these options.

    Their help, bounds and choices stay.
    """
    records = {record.name: record for record in fields(cls)}
    changed = [
        (name, records[name].type, field(default=default, metadata=records[name].metadata))
        for name, default in defaults.items()
    ]
    return make_dataclass(cls.__name__, changed, bases=(cls,), frozen=True)


@dataclass(frozen=True)
class ExtractorConfig:
    """How an image becomes keypoints, for any extractor."""

    max_num_keypoints: int = option(
        1024, 'keep the best N keypoints of an image; -1 keeps all', low=-1, live=True, zero=False
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
        'resize the long side to this before extraction; -1 keeps the size, or follows '
        'upsample_to',
        low=-1,
        live=True,
    )
    upsample_to: int = option(
        -1,
        'enlarge images whose long side is shorter to this, at most to twice their size: more '
        'precise, and slower; -1 never does',
        low=-1,
        live=True,
        old='enlarge_to',
    )
    multi_scale: bool = option(
        False, 'extract on an image pyramid as well: slower, more robust to zoom', live=True
    )


@dataclass(frozen=True)
class ViewConfig:
    """Which part of an image an extractor sees, and in which pixels its keypoints are given."""

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
        '', 'picture of the size of the images: keypoints where it is black are dropped', live=True
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
    """How two sets of descriptors become matches, and the geometry that verifies them."""

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
        'homography', 'model that the matches are verified with', choices=GEOMETRIES, live=True
    )
    ransac_threshold_px: float = option(
        3.0, 'largest error of an inlier in pixels', low=0.01, high=100.0, live=True
    )


def _problem(value: Any, wanted: OptionDescription) -> str | None:
    """Return in words why a value is not allowed; None where it is."""
    name, kind = wanted.name, wanted.kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f'{name} is {value!r}, expected {kind.__name__}'
    if kind is float and not math.isfinite(value):
        return f'{name} is {value}, expected a finite number'
    if wanted.low is not None and value < wanted.low:
        return f'{name} is {value}, expected at least {wanted.low}'
    if value == 0 and not wanted.zero:
        return f'{name} is 0, expected {wanted.low}, or at least 1'
    if wanted.high is not None and value > wanted.high:
        return f'{name} is {value}, expected at most {wanted.high}'
    if wanted.choices and value not in wanted.choices:
        return f"{name} is '{value}', expected one of {wanted.allowed}"
    return None


def check_config(config: Any) -> None:
    """Raise ConfigError that lists every option whose type or range is wrong."""
    found = [_problem(getattr(config, f.name), describe(f)) for f in fields(config)]
    problems = [text for text in found if text]
    if problems:
        raise ConfigError('; '.join(problems))


def make_config(cls: type[T], options: Mapping[str, Any]) -> T:
    """
    Build and check a configuration.

    Old names of options are taken with a FutureWarning. Raises ConfigError, which names unknown
    options and the nearest ones.
    """
    names = [f.name for f in fields(cls)]
    options = current_names(options, cls)
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


def old_names(*classes: type) -> dict[str, str]:
    """Return the present name of each option of configuration classes that had another one."""
    records = (describe(f) for cls in classes for f in fields(cls))
    return {record.old: record.name for record in records if record.old}


def current_names(options: Mapping[str, Any], *classes: type) -> dict[str, Any]:
    """Return options of configuration classes with old names replaced, each with a warning."""
    now, renamed = old_names(*classes), dict(options)
    for old in now.keys() & options.keys():
        text = f"option '{old}' is called '{now[old]}' now; the old name will go with a release"
        warnings.warn(text, FutureWarning, stacklevel=3)
        renamed.setdefault(now[old], renamed.pop(old))
    return renamed


def parse_options(texts: Sequence[str], *classes: type) -> dict[str, Any]:
    """Turn KEY=VALUE words into typed options of configuration classes; raises ConfigError."""
    types = {f.name: type(f.default) for cls in classes for f in fields(cls)}
    types = {old: types[now] for old, now in old_names(*classes).items()} | types
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
