"""A picture of all primitives with their labels, to be looked at."""

import cv2
import numpy as np

from .canvas import fixed_point, SHIFT
from .config import PRIMITIVES, ShapesConfig
from .draw import draw_shape

LABEL = (40, 230, 80)
OUTLINE = (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
ZOOM = 3
GAP = 4


def draw_sheet(config: ShapesConfig, split: str = 'train', columns: int = 6) -> np.ndarray:
    """Draw the first images of each primitive, a row for each: (H, W, 3) uint8 RGB, enlarged."""
    config.check()
    rows = []
    for primitive in PRIMITIVES:
        cells = [_cell(*draw_shape(primitive, split, k, config)) for k in range(columns)]
        for colour, thickness in ((OUTLINE, 4), (LABEL, 1)):
            where = (8, 26)
            cv2.putText(cells[0], primitive, where, FONT, 0.8, colour, thickness, cv2.LINE_AA)
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows)[:-GAP, :-GAP]


def _cell(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Enlarge an image with its labels, and add a gap at the right and below."""
    large = cv2.resize(image, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    picture = cv2.cvtColor(large, cv2.COLOR_GRAY2RGB)
    for centre in fixed_point((points + 0.5) * ZOOM - 0.5).tolist():
        cv2.circle(picture, centre, 4 << SHIFT, LABEL, 1, cv2.LINE_AA, SHIFT)
        cv2.circle(picture, centre, 1 << (SHIFT - 1), LABEL, cv2.FILLED, cv2.LINE_AA, SHIFT)
    return cv2.copyMakeBorder(picture, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255,) * 3)
