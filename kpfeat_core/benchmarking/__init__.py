"""How fast, how large and how costly extractors are, side by side in one run."""

from dataclasses import dataclass
import re

from ..config import ExtractorConfig, option, PRECISIONS
from ..errors import ConfigError

SMALLEST_SIDE = 32


@dataclass(frozen=True)
class BenchmarkConfig:
    """What every system is measured on, and how often."""

    size: str = option('640x480', 'width and height of the picture in pixels')
    max_num_keypoints: int = option(
        ExtractorConfig.max_num_keypoints, 'keep the best N keypoints of a picture', low=1
    )
    rounds: int = option(10, 'times that every system has its turn', low=1)
    warm_up: int = option(2, 'rounds before those that count', low=1)
    device: str = option('auto', 'cpu, cuda, cuda:N, mps, or auto for a GPU if there')
    precision: str = option('float32', 'arithmetic of the networks', choices=PRECISIONS)
    threads: int = option(-1, 'threads of torch and OpenCV; -1: as many as torch takes', low=-1)
    image: str = option('', 'picture, resized to the size; none: a drawing rich in corners')


def parse_size(text: str) -> tuple[int, int]:
    """Turn '640x480' into (width, height); raises ConfigError."""
    found = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text.strip())
    size = tuple(int(number) for number in found.groups()) if found else (0, 0)
    if min(size) < SMALLEST_SIDE:
        raise ConfigError(
            f"size is '{text}', expected WIDTHxHEIGHT in pixels such as 640x480, each "
            f'{SMALLEST_SIDE} or more'
        )
    return size
