"""`kpfeat match`, as a user sees it."""

from kpfeat_core.image import read_image
import pytest
from run_kpfeat import assert_one_error, run


def test_match_counts_and_draws(photos, weights, tmp_path):
    words = ('match', photos / 'a.png', photos / 'b.png', '-w', weights)
    result = run(*words, '--out', tmp_path / 'new/m.png', '--geometry', 'homography')
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert 'a.png: ' in lines[0] and 'keypoints' in lines[0]
    assert 'matches' in lines[2] and 'inliers' in lines[2] and 'homography within 3 px' in lines[2]
    picture = read_image(tmp_path / 'new/m.png')
    assert picture.shape[0] == 120 and picture.shape[1] >= 2 * 160


def test_identical_images_match_perfectly_and_without_geometry_there_are_no_inliers(
    photos, weights
):
    words = ('match', photos / 'a.png', photos / 'a.png', '-w', weights)
    assert '(100 %)' in run(*words).stdout
    result = run(*words, '--geometry', 'none')
    assert result.exit_code == 0 and 'inliers' not in result.stdout


@pytest.mark.parametrize(
    'words, texts',
    [
        (['--geometry', 'affine'], ["geometry is 'affine'", 'fundamental']),
        (['--ratio-threshold', '2'], ['ratio_threshold is 2', 'at most 1']),
        (['--out', 'picture.xyz'], ['picture.xyz', 'matches.png']),
        (['--out', 'picture'], ['picture', 'matches.png']),
        (['--homographies', 'none'], ['--homographies']),  # an old name of another geometry
    ],
)
def test_mistakes_in_match_are_one_sentence(photos, weights, words, texts):
    result = run('match', photos / 'a.png', photos / 'b.png', '-w', weights, *words)
    assert_one_error(result, *texts)


def test_match_names_the_image_it_cannot_read(photos, weights):
    assert_one_error(run('match', photos / 'a.png', '/no.png', '-w', weights), "'/no.png'")
    result = run('match', photos, photos / 'a.png', '-w', weights)
    assert_one_error(result, f"'{photos}' is a folder, expected an image", 'name one of its files')
