"""A camera over a photograph: its frames and homographies, and the report of a run."""

import cv2
from kpfeat_core.errors import ConfigError, ImageError
from kpfeat_core.matching import PairMatches
from kpfeat_core.virtual_camera import Motion, StreamReport, VirtualCamera
import numpy as np
import pytest

SIZE = (320, 240)
STAMPS = [int(t * 1e9) for t in np.linspace(0, 10, 12, endpoint=False)]


def dots(points: np.ndarray, height: int = 600, width: int = 800) -> np.ndarray:
    """Draw a Gaussian blob around each subpixel point, on black."""
    y, x = np.mgrid[:height, :width].astype(float)
    image = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 3.0**2)) for u, v in points)
    return np.repeat((255 * image.clip(0, 1)).round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(frame: np.ndarray, near: np.ndarray, radius: int = 10) -> np.ndarray:
    """Return the centre of mass of the blob around a point."""
    x0, y0 = np.round(near).astype(int) - radius
    patch = frame[y0 : y0 + 2 * radius + 1, x0 : x0 + 2 * radius + 1, 0].astype(float)
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]]
    return np.array([(x * patch).sum(), (y * patch).sum()]) / patch.sum() + [x0, y0]


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[None].astype(float), matrix)[0]


@pytest.fixture(scope='module')
def pattern() -> tuple[np.ndarray, VirtualCamera]:
    """Return dots at subpixel positions and a camera in front of them."""
    x, y = np.meshgrid(np.arange(60, 780, 60.0), np.arange(60, 580, 60.0))
    points = np.column_stack([x.ravel(), y.ravel()]) + np.random.default_rng(0).random((108, 2))
    return points, VirtualCamera(dots(points), SIZE)


def inner(points: np.ndarray, margin: int = 14) -> np.ndarray:
    return ((points > margin) & (points < np.array(SIZE) - margin)).all(1)


@pytest.mark.parametrize('stamp', STAMPS)
def test_dots_appear_where_the_homography_says(pattern, stamp) -> None:
    points, camera = pattern
    expected = project(np.linalg.inv(camera.to_photograph(stamp)), points)
    expected = expected[inner(expected)]
    frame = camera.frame(stamp)
    found = np.array([centroid(frame, point) for point in expected])
    assert len(found) >= 4
    assert np.abs(found - expected).max() < 0.1


def test_homography_takes_dots_of_one_frame_to_those_of_another(pattern) -> None:
    points, camera = pattern
    stamp0, stamp1 = 1_000_000_000, 1_300_000_000
    in_frame0, in_frame1 = (
        project(np.linalg.inv(camera.to_photograph(stamp)), points) for stamp in (stamp0, stamp1)
    )
    seen = inner(in_frame0) & inner(in_frame1)
    found0 = np.array([centroid(camera.frame(stamp0), p) for p in in_frame0[seen]])
    found1 = np.array([centroid(camera.frame(stamp1), p) for p in in_frame1[seen]])
    assert np.abs(found0 - found1).max() > 5  # the camera moved
    assert camera.errors(found0, found1, stamp0, stamp1).max() < 0.15


def test_frames_have_no_borders_and_the_top_left_pixel_centre_is_the_origin() -> None:
    camera = VirtualCamera(np.full((600, 800, 3), 200, np.uint8), SIZE)
    assert all((camera.frame(stamp) == 200).all() for stamp in STAMPS)
    still = Motion(roll_deg=0, tilt_deg=0, zoom=1)
    camera = VirtualCamera(dots(np.array([[400.0, 300.0]])), SIZE, still)
    right, bottom = project(camera.to_photograph(0), np.array([[-0.5, -0.5], [319.5, 239.5]]))
    assert np.allclose((right + bottom) / 2, (np.array([800, 600]) - 1) / 2)


@pytest.mark.parametrize('shape', [(300, 2000), (2000, 300), (64, 64), (1162, 1600)])
@pytest.mark.parametrize('size', [(640, 480), (200, 640)])
def test_frames_lie_in_photographs_of_any_shape_all_the_time_also_in_half_turns(
    shape, size
) -> None:
    for motion in (Motion(), Motion(roll_deg=180, tilt_deg=30, zoom=2)):
        camera = VirtualCamera(np.zeros((*shape, 3), np.uint8), size, motion)
        corners = np.array([camera.corners(int(t * 1e7)) for t in range(1000)])
        assert corners.min() >= 0
        assert (corners <= np.array(shape[::-1]) - 1).all()


def test_motion_is_that_of_another_camera_and_repeats_exactly_at_todays_stamps() -> None:
    camera, stamp = VirtualCamera(size=SIZE), 1_763_700_000_123_456_789
    assert np.array_equal(camera.frame(stamp), VirtualCamera(size=SIZE).frame(stamp))
    later = stamp + 3 * 10_000_000_000
    assert np.array_equal(camera.to_photograph(stamp), camera.to_photograph(later))
    assert not np.array_equal(camera.to_photograph(stamp), camera.to_photograph(stamp + 1_000_000))


def test_motion_is_smooth_also_where_the_loop_closes_and_none_between_equal_stamps() -> None:
    camera = VirtualCamera(size=SIZE)
    corners = np.array([camera.corners(int(t * 1e8)) for t in range(-5, 105)])
    steps = np.abs(np.diff(corners, axis=0))
    jerks = np.abs(np.diff(corners, n=2, axis=0))
    assert steps.max() < 80  # pixels of the photograph in a tenth of a second
    assert jerks.max() < 15
    assert np.allclose(camera.homography(7, 7), np.eye(3))


def test_photograph_and_size_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match='size is 8x240'):
        VirtualCamera(size=(8, 240))
    with pytest.raises(ImageError, match='photograph is 9x40'):
        VirtualCamera(np.zeros((40, 9, 3), np.uint8))


def test_the_calibration_turns_the_homography_into_a_rotation_and_a_place():
    camera = VirtualCamera(size=SIZE)
    assert camera.calibration.size == SIZE
    for stamp in STAMPS:
        seen = camera.to_photograph(stamp) @ camera.calibration.matrix
        spread = seen @ seen.T  # of a rotation before scale d and shift (x, y): free of the turn
        spread /= spread[2, 2]
        x, y = spread[:2, 2]
        d2 = spread[0, 0] - x**2
        expected = [[d2 + x**2, x * y, x], [x * y, d2 + y**2, y], [x, y, 1]]
        np.testing.assert_allclose(spread, expected, rtol=1e-6)


SECOND = 1_000_000_000


def pair(points0, points1, inliers) -> PairMatches:
    count = len(points0)
    index = np.arange(count)
    scores = np.ones(count, np.float32)
    return PairMatches(index, index, scores, points0, points1, np.array(inliers, bool))


def test_share_of_truth_counts_matches_within_three_pixels() -> None:
    camera = VirtualCamera(np.zeros((300, 400, 3), np.uint8), (64, 48))
    points0 = np.array([[10.0, 10], [20, 10], [10, 30], [30, 30]])
    truth = project(camera.homography(0, SECOND), points0)
    report = StreamReport(camera)
    shifts = np.array([[0, 0], [2.9, 0], [0, -3.1], [50, 0]])
    report.add_pair(pair(points0, truth + shifts, [1, 1, 1, 0]), 0, SECOND, SECOND)
    assert report.true_share() == pytest.approx(0.5)
    assert ('matches within 3 px of the truth', '50.0%') in report.rows(1, 1, 0)
    assert ('inliers of a pair', '3 (75.0%)') in report.rows(1, 1, 0)


def test_rate_and_latency_come_from_arrivals() -> None:
    report, empty = StreamReport(), np.zeros((0, 2))
    for k in range(11):
        stamp = k * SECOND // 10
        report.add_pair(pair(empty, empty, []), stamp, stamp, stamp + (50 + k) * 1_000_000)
    assert report.rate_hz() == pytest.approx(10 / 1.01)
    assert report.latency_ms() == (pytest.approx(55), pytest.approx(59.5))


def test_run_without_matches_has_a_report_too() -> None:
    report, empty = StreamReport(), np.zeros((0, 2))
    report.add_pair(pair(empty, empty, []), 0, 1, 2)
    rows = dict(report.rows(sent=6, received=5, dropped=2))
    assert rows['matches of a pair'] == '0'
    assert rows['images dropped for newer ones'] == '2 of 6'
    assert rows['images that never reached the extractor'] == '1 of 6'
    assert 'matches within 3 px of the truth' not in rows
