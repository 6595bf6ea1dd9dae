"""Pages for people: one HTML file that needs no other, with figures in the ink of the page."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import html
import io
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np

from .errors import DataError
from .image import fit
from .io import replacing

ASSETS = Path(__file__).with_name('assets')
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 78]
if hasattr(cv2, 'IMWRITE_JPEG_SAMPLING_FACTOR'):  # OpenCV 4.7; Ubuntu 24.04 has 4.6
    # thin red and green lines run into each other where color has half the resolution
    JPEG += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
# One color a curve, distinct on white and on black; then the same ones dashed.
COLORS = (
    '#3b82f6', '#f76707', '#2f9e44', '#e64980', '#9775fa', '#0ca5b8',
    '#d9a404', '#a0694b', '#e03131', '#868e96',
)  # fmt: skip
INK = '#123456'  # stands for the color of the page's text until the figure is written
WIDTH_IN = 5.0
_STYLE = {
    'font.size': 9,
    'svg.fonttype': 'none',
    'text.parse_math': False,  # names are not formulas
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.alpha': 0.15,
    'axes.labelsize': 9,
    **dict.fromkeys(
        ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color'), INK
    ),
    'grid.color': INK,
}


def require_libraries() -> None:
    """Raise DataError where a library that makes reports is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DataError(
            f'the report needs {error.name}, which is not installed; '
            "pip install 'kpfeat[evaluate]', or leave the report out: tables and .json files "
            'do without'
        ) from None


def write_page(path: Path | str, template: str, content: Mapping[str, Any]) -> None:
    """Fill a template of the assets and write the page, all of it or nothing."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(content)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='replace')


def picture_element(picture: np.ndarray, width: int) -> dict[str, Any]:
    """Return source, width and height of an image element for (H, W, 3) uint8 RGB, reduced."""
    picture = fit(picture, (width, len(picture)))
    data = cv2.imencode('.jpg', np.ascontiguousarray(picture[..., ::-1]), JPEG)[1]
    source = 'data:image/jpeg;base64,' + base64.b64encode(data).decode()
    return {'source': source, 'width': picture.shape[1], 'height': picture.shape[0]}


def color(k: int) -> str:
    """Return the color of curve k."""
    return COLORS[k % len(COLORS)]


def is_dashed(k: int) -> bool:
    """Return whether curve k is dashed, since its color is another's too."""
    return k // len(COLORS) % 2 == 1


def line_style(k: int) -> dict[str, str]:
    """Return how curve k is drawn, as keywords for matplotlib."""
    return {'color': color(k), 'linestyle': '--' if is_dashed(k) else '-'}


@contextmanager
def figure(height: float) -> Iterator[tuple[Any, Any]]:
    """Give axes to draw on, and a function that then writes them as SVG under a title."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height), layout='constrained')
    with matplotlib.rc_context(_STYLE):
        yield figure.add_subplot(), lambda title: _svg(figure, title)


def _svg(figure: Any, title: str) -> str:
    """Write a figure as an element of a page, without addresses and without a size of its own."""
    import matplotlib

    figure.patch.set_visible(False)
    figure.axes[0].patch.set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': title}):  # names differ between figures
        figure.savefig(buffer, format='svg', metadata={'Date': None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)[0]
    body = text[text.index('>', text.index('<svg')) + 1 :]
    body = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>', '', body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', '<g', body).replace(INK, 'currentColor')
    return f'<svg role="img" aria-label="{html.escape(title)}" {box}>{body}'
