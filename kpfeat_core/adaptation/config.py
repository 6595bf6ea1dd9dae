"""Options of homographic adaptation."""

from dataclasses import dataclass

from ..config import option, PRECISIONS
from ..data.homography_config import HOMOGRAPHIES


@dataclass(frozen=True)
class AdaptConfig:
    """How many views a detector is asked about, and how its answers become keypoints."""

    num: int = option(100, 'views of a photograph, itself among them', low=1)
    homographies: str = option(
        'superpoint-adapt', 'how the views are drawn', choices=tuple(HOMOGRAPHIES)
    )
    aggregation: str = option(
        'sum',
        'score of a pixel from the views that see it: sum (over their count) or max',
        choices=('sum', 'max'),
    )
    border_erosion: int = option(
        3, 'ignore what a view says this close to where it ends, in pixels', low=0
    )
    outside: str = option(
        'reflection',
        'what views show beyond the photograph: its reflection, or zeros as published, which '
        'draws edges that are not there',
        choices=('reflection', 'zeros'),
    )
    support: float = option(
        0.25,
        'a pixel that a smaller share of the views sees scores as if the rest of that share had '
        'seen nothing there: a few views agree too easily; 0 as published',
        low=0.0,
        high=1.0,
    )
    min_views: int = option(1, 'pixels that fewer views see score 0', low=1)
    detection_threshold: float = option(0.015, 'drop keypoints that score at or below this', 0.0)
    nms_radius: int = option(4, 'keep only the best keypoint within this many pixels', 0, 64)
    remove_borders: int = option(4, 'drop keypoints closer than this to the border', low=0)
    max_num_keypoints: int = option(600, 'keep the best N keypoints; -1 keeps all', low=-1)
    sub_pixel: bool = option(False, 'refine keypoints to sub-pixel positions')
    resize: int = option(320, 'long side at which the detector works; -1 keeps the size', low=-1)
    height: int = option(-1, 'with width: exactly this size instead, whatever the shape', low=-1)
    width: int = option(-1, 'with height: exactly this size instead, whatever the shape', low=-1)
    seed: int = option(0, 'every random draw follows from this and the name of the image', low=0)
    precision: str = option('float32', 'arithmetic of the network', choices=PRECISIONS)
    batch_size: int = option(-1, 'views at once; -1 takes what suits the device', low=-1)
