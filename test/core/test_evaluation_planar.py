"""The protocol end to end, on sequences made here and with an extractor that knows the truth."""

import cv2
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.evaluation import (
    balanced_subset,
    evaluate,
    OpencvExtractor,
    planar_pairs,
    PlanarPair,
    PlanarProtocol,
)
from kpfeat_core.evaluation.planar import resized_pixels
from kpfeat_core.features import Features
import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope='module')
def scene() -> np.ndarray:
    """Return (360, 480, 3) with rectangles and discs, rich in corners at all sizes."""
    rng = np.random.default_rng(3)
    image = np.full((360, 480, 3), 90, np.uint8)
    for _ in range(160):
        x, y = (int(v) for v in rng.integers(0, (480, 360)))
        w, h = (int(v) for v in rng.integers(6, 60, 2))
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
    return cv2.GaussianBlur(image, (0, 0), 0.7)


@pytest.fixture
def sequences(tmp_path, scene):
    """Write two sequences in the HPatches layout: a shift by (12, 8), and the same picture."""
    shifted = np.array([[1.0, 0, -12], [0, 1, -8], [0, 0, 1]])
    for name, H_0to1 in (('v_shift', shifted), ('i_same', np.eye(3))):
        folder = tmp_path / name
        folder.mkdir()
        for k, matrix in (('1', np.eye(3)), ('2', H_0to1), ('10', H_0to1)):
            view = cv2.warpPerspective(scene, matrix, (440, 320))
            cv2.imwrite(str(folder / f'{k}.png'), view[..., ::-1])
            if k != '1':
                np.savetxt(folder / f'H_1_{k}', matrix)
    return tmp_path


class GridExtractor:
    """Finds fixed points; two images get the same descriptors in the same order."""

    def __init__(self, points_of_width):
        self.points_of_width = points_of_width
        self.calls = 0

    def with_options(self, max_num_keypoints):
        self.limit = max_num_keypoints
        return self

    def extract(self, image):
        self.calls += 1
        points = torch.as_tensor(self.points_of_width[image.shape[1]], dtype=torch.float32)
        count = len(points)
        return Features(
            keypoints=points[None],
            keypoint_scores=torch.ones(1, count),
            descriptors=F.normalize(torch.eye(8)[:count] + 0.01, dim=-1)[None],
            mask=torch.ones(1, count, dtype=torch.bool),
            image_size=torch.tensor([[float(image.shape[1]), float(image.shape[0])]]),
        )


POINTS = np.array([[10.0, 14.0], [90.0, 12.0], [80.0, 60.0], [15.0, 70.0], [50.0, 33.0]])


def blank_pair(H_0to1, width0=100, width1=101):
    views = [np.zeros((80, width, 3), np.uint8) for width in (width0, width1)]
    return PlanarPair('group', 'group/pair', *views, H_0to1)


def test_an_extractor_that_knows_the_truth_gets_full_marks():
    pair = blank_pair(np.array([[1.0, 0, 2], [0, 1, 3], [0, 0, 1]]))
    oracle = GridExtractor({100: POINTS, 101: POINTS + [2, 3]})
    (result,) = evaluate(oracle, [pair]).pairs
    assert result.matches == 5
    assert result.accuracy == result.homography == (1, 1, 1)
    assert result.corner_error == pytest.approx(0, abs=1e-3)
    assert result.repeatability == 1


def test_an_extractor_off_by_half_a_pixel_loses_half_a_pixel():
    oracle = GridExtractor({100: POINTS, 101: POINTS + 0.5})
    (result,) = evaluate(oracle, [blank_pair(np.eye(3))]).pairs
    assert result.localization_px == pytest.approx(0.5**0.5)
    assert result.corner_error == pytest.approx(0.5**0.5, abs=1e-2)


def test_an_extractor_off_by_more_than_a_pixel_passes_from_three_pixels_on():
    oracle = GridExtractor({100: POINTS, 101: POINTS + [1.5, 0]})
    (result,) = evaluate(oracle, [blank_pair(np.eye(3))]).pairs
    assert result.accuracy == result.homography == (0, 1, 1)


def test_an_extractor_that_swaps_x_and_y_fails():
    oracle = GridExtractor({100: POINTS[:, ::-1].copy(), 101: POINTS})
    (result,) = evaluate(oracle, [blank_pair(np.eye(3))]).pairs
    assert result.accuracy[0] == result.homography[0] == 0


@pytest.mark.parametrize('count', [0, 1])
def test_an_image_with_hardly_any_keypoints_counts_as_failed(count):
    oracle = GridExtractor({100: POINTS, 101: POINTS[:count]})
    results = evaluate(oracle, [blank_pair(np.eye(3))])
    assert results.pairs[0].matches == count
    assert results.pairs[0].homography == (0, 0, 0)
    assert results.means()['MMA@3'] == count  # the one match there is, is right


def test_homographies_move_with_resized_images():
    """The truth is given at 200 and 404 pixels; the extractor sees both images at 100 wide."""
    H_0to1 = np.array([[2.0, 0, 5], [0, 2.1, -4], [1e-4, 0, 1]])
    pair = blank_pair(H_0to1, 200, 404)
    to_small0 = resized_pixels(80, 200, 40, 100)
    to_small1 = resized_pixels(80, 404, 20, 100)
    truth = torch.from_numpy(to_small1 @ H_0to1 @ np.linalg.inv(to_small0))

    class Oracle(GridExtractor):
        def extract(self, image):
            if image.shape[0] == 40:
                return super().extract(image)
            points = cv2.perspectiveTransform(POINTS[None] * 0.5, truth.numpy())[0]
            self.points_of_width = {100: points}
            return super().extract(image)

    protocol = PlanarProtocol(long_side=100)
    (result,) = evaluate(Oracle({100: POINTS * 0.5}), [pair], protocol).pairs
    assert result.accuracy == (1, 1, 1)


def test_resizing_keeps_the_outer_edges_of_the_image_in_place():
    matrix = resized_pixels(60, 80, 30, 20)
    edges = np.array([[-0.5, -0.5, 1], [79.5, 59.5, 1]]).T
    np.testing.assert_allclose((matrix @ edges)[:2].T, [[-0.5, -0.5], [19.5, 29.5]])


def test_resized_pixels_agree_with_the_resized_picture():
    image = np.zeros((64, 64, 3), np.uint8)
    image[40:44, 16:20] = 255  # middle at (17.5, 41.5), exactly one pixel of the small image
    seen = {}

    class Looker(GridExtractor):
        def extract(self, image):
            seen['image'] = image
            return super().extract(image)

    pair = PlanarPair('g', 'g/p', image, image, np.eye(3))
    evaluate(Looker({16: POINTS[:1]}), [pair], PlanarProtocol(long_side=16))
    expected = resized_pixels(64, 64, 16, 16) @ [17.5, 41.5, 1]
    y, x = np.unravel_index(seen['image'][..., 0].argmax(), (16, 16))
    assert (x, y) == tuple(expected[:2])


def test_each_file_is_extracted_once_a_sequence(sequences):
    counter = GridExtractor({440: POINTS})
    results = evaluate(counter, planar_pairs(sequences))
    assert len(results.pairs) == 4
    assert counter.calls == 6
    assert counter.limit == 1024


@pytest.mark.parametrize('name', ['sift', 'orb'])
def test_opencv_features_match_a_shifted_picture(sequences, name):
    results = evaluate(OpencvExtractor(name), planar_pairs(sequences))
    means = results.means('v_shift')
    assert means['MMA@3'] > 0.8
    assert means['HA@3'] == 1
    assert results.means('i_same')['MMA@1'] == 1
    low, high = results.intervals()['MMA@3']
    assert low <= results.means()['MMA@3'] <= high


def test_pairs_of_a_folder_are_listed_in_order_with_their_homographies(sequences):
    pairs = planar_pairs(sequences)
    assert [pair.name for pair in pairs] == [
        'i_same/1-2',
        'i_same/1-10',
        'v_shift/1-2',
        'v_shift/1-10',
    ]
    assert pairs[2].H_0to1[:2, 2].tolist() == [-12, -8]


def test_a_folder_without_sequences_is_refused_in_words(tmp_path):
    with pytest.raises(DataError, match='H_1_2'):
        planar_pairs(tmp_path)


def test_a_missing_image_of_a_sequence_is_named(sequences):
    (sequences / 'v_shift/10.png').unlink()
    with pytest.raises(DataError, match='no image 10'):
        planar_pairs(sequences)


@pytest.mark.parametrize('text', ['1 0 0\n0 1 0\n', 'not numbers\n', '1 0 0\n0 nan 0\n0 0 1\n'])
def test_a_broken_homography_file_is_named(sequences, text):
    (sequences / 'v_shift/H_1_2').write_text(text)
    with pytest.raises(DataError, match='H_1_2'):
        planar_pairs(sequences)


def test_a_subset_takes_an_equal_share_of_every_group(sequences):
    pairs = planar_pairs(sequences)
    assert [pair.name for pair in balanced_subset(pairs, 2)] == ['i_same/1-2', 'v_shift/1-2']
    assert balanced_subset(pairs, -1) == pairs


def test_orb_similarity_is_the_hamming_distance(scene):
    features = OpencvExtractor('orb', 50).extract(scene)
    found, bits = OpencvExtractor('orb', 50).detect_and_compute(scene)
    best = np.argsort([-point.response for point in found], kind='stable')[:50]
    rows = features.descriptors[0].numpy()
    theirs = [[cv2.norm(bits[i], bits[j], cv2.NORM_HAMMING) for j in best] for i in best]
    np.testing.assert_allclose((1 - rows @ rows.T) * 128, theirs, atol=1e-3)


@pytest.mark.parametrize('name', ['sift', 'orb'])
def test_opencv_features_of_a_blank_image_are_empty(name):
    assert OpencvExtractor(name).extract(np.zeros((50, 60, 3), np.uint8)).count() == 0


def test_opencv_features_obey_the_limit_and_come_best_first(scene):
    features = OpencvExtractor('sift', 30).extract(scene)
    assert features.count() == 30
    scores = features.keypoint_scores[0]
    assert (scores[:-1] >= scores[1:]).all()


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ConfigError, match='sift or orb'):
        OpencvExtractor('surf')
