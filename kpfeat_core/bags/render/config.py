"""Options of pictures of a recording."""

from dataclasses import dataclass

from ...config import AUTO, option

KEYPOINTS, TRACKS, MATCHES = SHOWN = ('keypoints', 'tracks', 'matches')


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
