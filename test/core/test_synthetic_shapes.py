"""Synthetic Shapes: labels are where the image shows corners; the data follow from the options."""

import cv2
from kpfeat_core.data.config import PRIMITIVES, ShapesConfig, UNLABELED
from kpfeat_core.data.shape_figures import Canvas, contrasting_grays, inset
from kpfeat_core.data.synthetic_shapes import draw_large, draw_shape, finish, ShapesBank
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.runtime import count_workers
import numpy as np
import pytest
import torch

FULL = ShapesConfig()
SMALL = ShapesConfig(
    height=30, width=40, draw_height=128, draw_width=160, blur_px=3, blobs=9, train=5, val=2,
    smooth_px=(9, 40),
)  # fmt: skip
FLAT = ShapesConfig(blobs=0, smooth_px=(500, 500))  # an even background, to measure edges on
IN_DRAWING, IN_IMAGE = 12.0, 2.5  # how far to look across an edge, in pixels of either
FACES = ('polygon', 'polygons', 'checkerboard', 'stripes', 'cube')
SCALE = FULL.draw_width / FULL.width


def to_small(points: np.ndarray) -> np.ndarray:
    """Map pixels of the drawing to pixels of the image by its outer edges, which coincide."""
    return (np.asarray(points) + 0.5) / SCALE - 0.5


def profile(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Read an image at sub-pixel (x, y) points of any shape."""
    x, y = np.moveaxis(points.astype(np.float32), -1, 0)
    return cv2.remap(image.astype(np.float32), x, y, cv2.INTER_LINEAR)


def half_way(values: np.ndarray, steps: np.ndarray) -> float:
    """Return the step at which a profile passes the middle; NaN unless it joins two plateaus."""
    contrast = abs(values[0] - values[-1])
    flat = max(np.ptp(values[:5]), np.ptp(values[-5:])) < 0.03 * contrast
    middle = (values[0] + values[-1]) / 2
    above = values > middle
    change = np.flatnonzero(above[1:] != above[:-1])
    if not flat or len(change) != 1 or contrast < 20:
        return np.nan
    k = change[0]
    share = (middle - values[k]) / (values[k + 1] - values[k])
    return steps[k] + share * (steps[k + 1] - steps[k])


def seen_edge(image: np.ndarray, start: np.ndarray, end: np.ndarray, reach: float):
    """
    Find the straight edge that an image shows near a segment: a point, and its direction.

    reach: how far to look across it, in pixels. Short edges and those that others disturb give
    None.
    """
    along = end - start
    length = np.linalg.norm(along)
    margin = 1.7 * reach  # blur rounds the corners
    if length < 2 * margin + 8:
        return None
    along = along / length
    across = np.array([-along[1], along[0]])
    steps = np.linspace(-reach, reach, 41)
    places = np.linspace(margin, length - margin, 12)
    centers = start + places[:, None] * along
    if (centers < 2 * reach).any() or (centers > np.array(image.shape)[::-1] - 2 * reach).any():
        return None
    rows = profile(image, centers[:, None] + steps[:, None] * across)
    offsets = np.array([half_way(row, steps) for row in rows])
    if np.isnan(offsets).any():
        return None
    slope, height = np.polyfit(places, offsets, 1)
    return start + height * across, along + slope * across


def meeting(one, other) -> np.ndarray | None:
    """Return where two lines meet; None where a sharp angle makes that, or them, uncertain."""
    (p, u), (q, v) = one, other
    if abs(u[0] * v[1] - u[1] * v[0]) < 0.6:
        return None
    t = np.linalg.solve(np.stack([u, -v], 1), q - p)
    return p + t[0] * u


def seen_corners(image: np.ndarray, face: np.ndarray, reach: float) -> list[np.ndarray]:
    """Find the corners of a face where the edges that an image shows meet."""
    found = []
    around = zip(np.roll(face, 1, 0), face, np.roll(face, -1, 0), strict=True)
    for before, corner, after in around:
        edges = seen_edge(image, before, corner, reach), seen_edge(image, corner, after, reach)
        point = None if None in edges else meeting(*edges)
        size = np.array(image.shape)[::-1]
        if point is not None and (point > reach).all() and (point < size - 1 - reach).all():
            found.append(point)
    return found


def faces_of(primitive: str, index: int, monkeypatch):
    """Draw plain faces and no lines; gives the drawing, its labels, and the faces."""
    faces = []
    polygon, paste = Canvas.polygon, Canvas.paste

    def spy(self, corners, gray, spread_edges=()):
        faces.append(corners)
        polygon(self, corners, gray, spread_edges)

    def plain_paste(self, patch, low, corners):
        faces.append(corners)
        paste(self, np.full_like(patch, 255 if self.mean < 128 else 0), low, corners)

    with monkeypatch.context() as patch:
        patch.setattr(Canvas, 'polygon', spy)
        patch.setattr(Canvas, 'paste', plain_paste)
        patch.setattr(Canvas, 'line', lambda *_: None)
        large, labels = draw_large(primitive, 'test', index, FLAT)
    return large, labels, faces


@pytest.mark.parametrize('primitive', FACES)
def test_labels_are_where_the_edges_in_the_drawing_meet(primitive, monkeypatch) -> None:
    errors = []
    for index in range(100):
        large, labels, faces = faces_of(primitive, index, monkeypatch)
        blurred = cv2.GaussianBlur(large, (FLAT.blur_px, FLAT.blur_px), 0)
        seen = [point for face in faces for point in seen_corners(blurred, face, IN_DRAWING)]
        for found in seen:
            errors.append(np.linalg.norm(labels - found, axis=1).min() / SCALE)
        if len(errors) >= 60:
            break
    assert len(errors) >= 10
    assert np.median(errors) < 0.07
    assert max(errors) < 0.3  # pixels of the final image


@pytest.mark.parametrize('primitive', ['polygon', 'checkerboard'])
def test_labels_are_where_the_edges_in_the_final_image_meet(primitive, monkeypatch) -> None:
    errors = []
    for index in range(25):
        large, labels, faces = faces_of(primitive, index, monkeypatch)
        image, labels = finish(large, labels, FLAT)
        long = (to_small(face) for face in faces)
        for found in (point for face in long for point in seen_corners(image, face, IN_IMAGE)):
            errors.append(found - labels[np.linalg.norm(labels - found, axis=1).argmin()])
    assert len(errors) >= 20
    assert np.abs(np.mean(errors, 0)).max() < 0.05  # half a pixel of the drawing is 0.06
    assert np.linalg.norm(errors, axis=1).max() < 0.3


def test_lines_end_in_half_discs_around_their_labels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        canvas = Canvas(FULL, rng)
        middle, angle, length = rng.uniform(400, 500, 2), rng.uniform(0, 6.3), rng.uniform(60, 300)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        ends = middle - along * length / 2, middle + along * length / 2
        canvas.line(*ends, 255, canvas.thickness(0.01, 0.02))
        steps = np.linspace(0, 20, 4001)[:, None]  # finer than what OpenCV's releases differ in

        def reach(start, direction, image=canvas.image, steps=steps):
            return steps[np.argmax(profile(image, start + steps * direction) < 128), 0]

        sides = [reach(middle, across), reach(middle, -across)]
        tips = [reach(ends[0], -along), reach(ends[1], along)]
        # as far from the label as the sides from the axis: to an eighth of a pixel once shrunk
        assert np.ptp(sides + tips) < 1.0
        assert 4.8 <= np.mean(sides) <= 11


@pytest.mark.parametrize('primitive', ['lines', 'star'])
def test_labels_of_strokes_are_their_ends(primitive, monkeypatch) -> None:
    strokes = []
    line = Canvas.line

    def spy(self, start, end, *style):
        strokes.extend([start, end])
        line(self, start, end, *style)

    monkeypatch.setattr(Canvas, 'line', spy)
    _, labels = draw_large(primitive, 'test', 0, FULL)
    assert len(labels) >= 2
    assert {tuple(p) for p in labels} == {tuple(p) for p in strokes}


@pytest.mark.parametrize('primitive', PRIMITIVES)
def test_labels_are_finite_inside_and_there_except_for_blobs_and_noise(primitive) -> None:
    counts = []
    for index in range(12):
        image, labels = draw_shape(primitive, 'train', index, FULL)
        assert image.shape == (120, 160) and image.dtype == np.uint8
        assert labels.dtype == np.float32 and labels.shape[1:] == (2,)
        assert (labels >= 0).all() and (labels <= (159, 119)).all()
        assert len(np.unique(labels, axis=0)) == len(labels)
        assert image.std() > 1
        counts.append(len(labels))
    assert sum(counts) == 0 if primitive in UNLABELED else sum(counts) >= 12


def test_a_cube_shows_seven_corners_and_hides_the_eighth() -> None:
    for index in range(20):
        _, labels = draw_large('cube', 'val', index, FULL)
        assert labels.shape == (7, 2)
        hull = cv2.convexHull(labels.astype(np.float32))[:, 0]
        assert len(hull) == 6  # and the corner where the three visible faces meet
        inner = next(p for p in labels.astype(np.float32) if not (hull == p).all(1).any())
        assert cv2.pointPolygonTest(hull, inner.tolist(), False) > 0


def test_polygons_neither_meet_nor_nest(monkeypatch) -> None:
    for index in range(5):
        faces = faces_of('polygons', index, monkeypatch)[2]
        assert len(faces) > 3
        covered = np.zeros((960, 1280), int)
        for face in faces:
            mask = np.zeros((960, 1280), np.uint8)
            outline = np.rint(inset(face, np.full(len(face), 1.0))).astype(np.int32)
            covered += cv2.fillPoly(mask, [outline], 1)
        assert covered.max() == 1


def test_grays_keep_their_distance_from_the_background() -> None:
    rng = np.random.default_rng(0)
    for mean in (0, 20, 128, 200, 255):
        grays = contrasting_grays(mean, rng, 2000)
        assert grays.min() >= 0 and grays.max() <= 255
        assert np.abs(grays - mean).min() >= 30


def test_insetting_moves_edges_and_not_only_corners() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10.0]])
    for corners in (square, square[::-1]):
        moved = inset(corners, np.full(4, 1.0))
        assert np.allclose(np.sort(moved, 0), np.sort(np.clip(square, 1, 9), 0))
    assert np.allclose(
        inset(square, np.array([2.0, 0, 0, 0])), [[0, 2], [10, 2], [10, 10], [0, 10]]
    )


def test_an_image_follows_from_seed_split_primitive_and_number() -> None:
    first, labels = draw_shape('star', 'train', 3, SMALL)
    again, labels_again = draw_shape('star', 'train', 3, SMALL)
    assert np.array_equal(first, again) and np.array_equal(labels, labels_again)
    others = (
        draw_shape('star', 'val', 3, SMALL),
        draw_shape('star', 'train', 4, SMALL),
        draw_shape('lines', 'train', 3, SMALL),
        draw_shape('star', 'train', 3, SMALL._replace(seed=1)),
    )
    assert all(not np.array_equal(first, image) for image, _ in others)


def test_rows_of_a_split_are_its_images_and_labels() -> None:
    bank = ShapesBank('val', SMALL, workers=2)
    assert len(bank) == 18
    batch = bank.draw(list(range(18)))
    assert batch.images.shape == (18, 1, 30, 40) and batch.valid.all()
    for row in range(18):
        image, labels = draw_shape(PRIMITIVES[row % 9], 'val', row // 9, SMALL)
        assert torch.equal(batch.images[row, 0], torch.from_numpy(image) / 255)
        assert torch.equal(batch.keypoints[row][batch.mask[row]], torch.from_numpy(labels))
        assert not batch.keypoints[row][~batch.mask[row]].any()


def test_batches_follow_from_the_seed_whether_they_were_drawn_ahead_or_not() -> None:
    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    bank = ShapesBank('train', SMALL, workers=2)
    in_turn = [
        bank.sample(count, seeded(seed)) for seed, count in ((3, 5), (4, 5), (5, 5), (6, 4))
    ]
    assert bank.ahead  # of seed 7
    for seed, batch in ((5, in_turn[2]), (3, in_turn[0]), (4, in_turn[1])):
        again = ShapesBank('train', SMALL).sample(5, seeded(seed))
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.keypoints, again.keypoints)
    assert len(in_turn[3]) == 4
    assert not torch.equal(in_turn[0].images, in_turn[1].images)
    after, expected = seeded(4), seeded(4)
    bank.sample(5, after)  # the numbers that come after it are the same as well
    ShapesBank('train', SMALL).sample(5, expected)
    assert torch.equal(after.get_state(), expected.get_state())


def test_shapes_without_corners_are_drawn_less_often() -> None:
    bank = ShapesBank('val', SMALL)
    shares = bank.probabilities.view(-1, len(PRIMITIVES)).sum(0).tolist()
    assert shares == pytest.approx([s / 6.6 for s in (1, 1, 1, 0.3, 1, 1, 0.2, 1, 0.1)])


def test_wrong_names_are_named() -> None:
    with pytest.raises(DataError, match="no split 'validation'"):
        draw_shape('star', 'validation', 0, SMALL)
    with pytest.raises(DataError, match="no primitive 'circle'"):
        draw_shape('circle', 'val', 0, SMALL)
    with pytest.raises(ConfigError, match='workers is 0'):
        count_workers(0)
    assert count_workers(3) == 3 and count_workers(-1) >= 1
