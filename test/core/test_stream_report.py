"""What is printed about a run is what was put in."""

from kpfeat_core.matching import PairMatches
from kpfeat_core.virtual_camera import StreamReport, VirtualCamera
import numpy as np
import pytest

SECOND = 1_000_000_000


def pair(points0, points1, inliers) -> PairMatches:
    count = len(points0)
    index = np.arange(count)
    scores = np.ones(count, np.float32)
    return PairMatches(index, index, scores, points0, points1, np.array(inliers, bool))


@pytest.fixture
def camera() -> VirtualCamera:
    return VirtualCamera(np.zeros((300, 400, 3), np.uint8), (64, 48))


def test_share_of_truth_counts_matches_within_three_pixels(camera) -> None:
    points0 = np.array([[10.0, 10], [20, 10], [10, 30], [30, 30]])
    lifted = np.column_stack([points0, np.ones(4)]) @ camera.homography(0, SECOND).T
    truth = lifted[:, :2] / lifted[:, 2:]
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
