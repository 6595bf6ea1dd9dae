"""Synthetic pairs: the truth is the truth, and the same every time."""

import cv2
from kpfeat_core.errors import DataError
from kpfeat_core.evaluation import find_photographs, Level, LEVELS, SyntheticPairs
from kpfeat_core.evaluation.synthetic import render_pair
import numpy as np
import pytest

CLEAN = Level('clean', 40, 1.4, 0.4, light=0.0, blur_px=0.0, noise=0.0, jpeg=95)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Write three smooth pictures of different shapes; smooth, so that values tell positions."""
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for i, size in enumerate([(240, 320), (300, 220), (700, 500)]):
        noise = rng.uniform(0, 1, (*size, 3)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 4)
        low, high = smooth.min(), smooth.max()
        picture = ((smooth - low) / (high - low) * 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / f'{i}.png'), picture)
    return folder


@pytest.mark.parametrize('i', range(3))
def test_view_0_warped_by_the_truth_is_view_1(folder, i):
    pair = render_pair(folder / f'{i}.png', CLEAN, np.random.default_rng(i))
    size = pair.view1.shape[1::-1]
    warped = cv2.warpPerspective(pair.view0, pair.H_0to1, size, flags=cv2.INTER_CUBIC)
    seen = cv2.warpPerspective(np.ones(pair.view0.shape[:2], np.uint8), pair.H_0to1, size)
    seen = cv2.erode(seen, np.ones((9, 9), np.uint8)) > 0
    difference = np.abs(warped.astype(float) - pair.view1)[seen]
    assert seen.mean() > 0.2
    half_pixel = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    wrong = half_pixel @ pair.H_0to1
    moved = cv2.warpPerspective(pair.view0, wrong, size, flags=cv2.INTER_CUBIC)
    moved_difference = np.abs(moved.astype(float) - pair.view1)[seen]
    assert difference.mean() < 2
    assert difference.mean() < 0.6 * moved_difference.mean()


def test_a_pair_is_the_same_in_every_run_and_order_and_another_with_another_seed(folder):
    images = find_photographs(folder)
    first, second = SyntheticPairs(images, 8), SyntheticPairs(images[::-1], 8)
    assert np.array_equal(first[5].view1, second[5].view1)
    assert np.array_equal(list(first)[5].H_0to1, first[5].H_0to1)
    assert not np.array_equal(first[0].H_0to1, SyntheticPairs(images, 4, seed=1)[0].H_0to1)


def test_levels_take_turns_and_every_photograph_meets_every_level(folder):
    images = (find_photographs(folder) * 2)[:4]  # 4 photographs, 4 levels: counts share a factor
    names = [pair.name for pair in SyntheticPairs(images, 16)]
    assert {name.split('/')[0] for name in names[:4]} == {level.name for level in LEVELS}
    assert len({name.split('-')[0] for name in names if '/0-' in name}) == 4


def test_pairs_of_one_photograph_have_names_of_their_own_and_one_origin(folder):
    pairs = list(SyntheticPairs(find_photographs(folder), 8, levels=[CLEAN]))
    assert len({pair.name for pair in pairs}) == 8
    assert {pair.name.split('/')[1].split('-')[0] for pair in pairs} == {p.origin for p in pairs}


def test_views_are_filled_up_to_the_border(folder):
    for pair in SyntheticPairs(find_photographs(folder), 4, levels=[CLEAN]):
        for view in (pair.view0, pair.view1):
            border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
            assert border.std() > 5
            assert (border.sum(1) == 0).mean() < 0.05


def test_the_manifest_leaves_textures_out(folder, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    for name in ('a.jpg', 'b.jpg', 'c.txt'):
        (images / name).touch()
    assert len(find_photographs(tmp_path)) == 2
    (tmp_path / 'manifest.csv').write_text('file,kind\na.jpg,texture\nb.jpg,photo\n')
    assert [path.name for path in find_photographs(images)] == ['b.jpg']


def test_a_folder_without_images_is_refused_in_words(tmp_path):
    with pytest.raises(DataError, match='holds no images'):
        find_photographs(tmp_path)
    with pytest.raises(DataError, match='no photographs'):
        SyntheticPairs([])
