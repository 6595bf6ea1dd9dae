"""The protocols end to end, with extractors that know the truth."""

from dataclasses import replace

import cv2
from kpfeat_core.evaluation import Evaluator, Protocol, PROTOCOLS
from kpfeat_core.evaluation.run import resized_view
import numpy as np
from oracle import blank_pair, DEFAULT, GridExtractor, POINTS, values
import pytest


@pytest.mark.parametrize('name', [name for name in PROTOCOLS if name != 'pose'])
def test_an_extractor_that_knows_the_truth_gets_full_marks_under_every_protocol(name) -> None:
    protocol = PROTOCOLS[name]
    pair = blank_pair(np.array([[1.0, 0, 2], [0, 1, 3], [0, 0, 1]]), 300, 303, 240)
    points = {300: POINTS * 3, 303: POINTS * 3 + [2, 3]}
    if protocol.size:
        height, width = protocol.size
        full = {side: round(240 * width / side) if protocol.crop else height for side in points}
        stretched = [
            (points[side] + 0.5) * [width / side, full[side] / 240]
            - [0.5, 0.5 + (full[side] - height) // 2]
            for side in (300, 303)
        ]

        class Both(GridExtractor):
            def extract(self, image):  # the first view twice: once to warm up
                self.points_of_width = {width: stretched[self.calls // 2]}
                return super().extract(image)

        oracle = Both({})
    else:
        oracle = GridExtractor(points)
    numbers = values(oracle, pair, protocol)
    full = [key for key in numbers if key.startswith(('MMA', 'HA', 'repeatability', 'matching'))]
    assert len(full) >= 15
    assert {key: numbers[key] for key in full} == pytest.approx(dict.fromkeys(full, 1.0))
    assert numbers['matches'] == numbers['right'] == numbers['keypoints'] == 5
    assert numbers['corner_error'] == pytest.approx(0, abs=1e-2)


def test_an_extractor_that_is_off_loses_as_much_as_it_is_off() -> None:
    def seen(points0, points1):
        return values(GridExtractor({100: points0, 101: points1}), blank_pair(np.eye(3)))

    numbers = seen(POINTS, POINTS + 0.5)
    assert numbers['localization_px'] == pytest.approx(0.5**0.5)
    assert numbers['corner_error'] == pytest.approx(0.5**0.5, abs=1e-2)
    assert numbers['AUC@1'] == pytest.approx(1 - 0.5**0.5, abs=1e-2)
    numbers = seen(POINTS, POINTS + [1.5, 0])  # passes from two pixels on
    assert [numbers[f'MMA@{t}'] for t in (1, 2, 10)] == [0, 1, 1]
    assert [numbers[f'HA@{t}'] for t in (1, 3, 5)] == [0, 1, 1]
    numbers = seen(POINTS[:, ::-1].copy(), POINTS)  # x and y swapped
    assert numbers['MMA@3'] == numbers['HA@3'] == numbers['matching_score'] == 0


@pytest.mark.parametrize('count', [0, 1])
def test_an_image_with_hardly_any_keypoints_counts_as_failed(count) -> None:
    numbers = values(GridExtractor({100: POINTS, 101: POINTS[:count]}), blank_pair(np.eye(3)))
    assert numbers['matches'] == count
    assert [numbers[f'HA@{t}'] for t in (1, 3, 5)] == [0, 0, 0]
    assert numbers['MMA@3'] == count  # the one match there is, is right


def test_a_detector_without_descriptors_is_measured_by_what_it_repeats() -> None:
    class Bare(GridExtractor):
        def extract(self, image):
            features = super().extract(image)
            return replace(features, descriptors=features.descriptors[..., :0])

    numbers = values(Bare({100: POINTS, 101: POINTS}), blank_pair(np.eye(3)))
    assert numbers['repeatability'] == 1
    assert numbers['matches'] == numbers['matching_score'] == 0


def test_only_keypoints_that_both_views_see_count_where_the_protocol_says_so() -> None:
    pair = blank_pair(np.array([[1.0, 0, 60], [0, 1, 0], [0, 0, 1]]), 100, 101)
    oracle = GridExtractor({100: POINTS, 101: [[70, 14], [75, 70], [20, 30]]})
    everywhere = values(oracle, pair)
    shared = values(oracle, pair, replace(DEFAULT, shared_region=True))
    assert (everywhere['keypoints'], shared['keypoints']) == (4, 2)


LEFT_BY_8 = np.array([[1.0, 0, -8], [0, 1, 0], [0, 0, 1]])
CROWD = np.concatenate([POINTS, POINTS + 2])


@pytest.mark.parametrize(
    ('points0', 'points1', 'H_0to1', 'options', 'count'),
    [
        (POINTS, POINTS, np.eye(3), {'border_px': 13}, 2),
        # of view 0 x 10 and 15 fall on 2 and 7; 90 is too close to its own border
        (POINTS, POINTS - [8, 0], LEFT_BY_8, {'border_px': 10, 'shared_region': True}, 2),
        (CROWD, CROWD, np.eye(3), {}, 10),
        (CROWD, CROWD, np.eye(3), {'nms_px': 3}, 5),
    ],
)
def test_keypoints_near_borders_and_crowded_ones_do_not_count_where_the_protocol_says_so(
    points0, points1, H_0to1, options, count
) -> None:
    oracle = GridExtractor({100: points0, 101: points1})
    assert values(oracle, blank_pair(H_0to1), replace(DEFAULT, **options))['keypoints'] == count


def test_extractors_are_asked_for_spare_keypoints_where_some_will_not_count() -> None:
    oracle = GridExtractor({100: POINTS, 101: POINTS})
    Evaluator(oracle, Protocol('p', '', max_num_keypoints=3, shared_region=True))(
        blank_pair(np.eye(3))
    )
    assert oracle.limit == 12
    protocol = Protocol('p', '', max_num_keypoints=3)
    numbers = values(oracle, blank_pair(np.eye(3)), protocol)
    assert oracle.limit == numbers['keypoints'] == 3


def test_homographies_move_with_resized_images() -> None:
    """The truth is given at 200 and 404 pixels; the extractor sees both images at 100 wide."""
    H_0to1 = np.array([[2.0, 0, 5], [0, 2.1, -4], [1e-4, 0, 1]])
    pair = blank_pair(H_0to1, 200, 404)
    protocol = replace(DEFAULT, long_side=100)
    to_small0, to_small1 = (resized_view(view, protocol)[1] for view in (pair.view0, pair.view1))
    truth = to_small1 @ H_0to1 @ np.linalg.inv(to_small0)

    class Oracle(GridExtractor):
        def extract(self, image):
            points = POINTS * 0.5
            if image.shape[0] != 40:
                points = cv2.perspectiveTransform(points[None], truth)[0]
            self.points_of_width = {100: points}
            return super().extract(image)

    assert values(Oracle({}), pair, protocol)['MMA@1'] == 1


def test_resized_pixels_agree_with_the_resized_picture() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[40:44, 16:20] = 255  # middle at (17.5, 41.5), exactly one pixel of the small image
    small, moved = resized_view(image, replace(DEFAULT, long_side=16))
    expected = moved @ [17.5, 41.5, 1]
    y, x = np.unravel_index(small[..., 0].argmax(), (16, 16))
    assert (x, y) == tuple(expected[:2])


def test_views_are_stretched_to_the_size_of_a_protocol_and_never_enlarged_by_a_long_side() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    view, moved = resized_view(image, PROTOCOLS['kp2d-1000'])
    assert view.shape == (480, 640, 3)
    assert (moved[0, 0], moved[1, 1]) == (6.4, 8)
    edges = np.array([[-0.5, -0.5, 1], [99.5, 59.5, 1]]).T  # the outer edges stay in place
    np.testing.assert_allclose((moved @ edges)[:2].T, [[-0.5, -0.5], [639.5, 479.5]])
    assert resized_view(image, DEFAULT)[0] is image


@pytest.mark.parametrize('shape', [(300, 200), (240, 500), (61, 83)])
def test_views_are_cut_where_a_protocol_keeps_their_shape(shape) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    y, x = (side // 2 for side in shape)
    cv2.circle(image, (x, y), 9, (255, 255, 255), -1)
    view, moved = resized_view(image, PROTOCOLS['superpoint'])
    assert view.shape == (480, 640, 3)
    assert moved[0, 0] == pytest.approx(moved[1, 1], rel=5e-3)
    rows, columns = np.nonzero(view[..., 0] > 127)
    assert np.allclose((moved @ [x, y, 1])[:2], (columns.mean(), rows.mean()), atol=0.1)
