"""COLMAP databases of recordings: what is in them, and that COLMAP matches them."""

import importlib.util
import json
import signal
import subprocess
import sys

import cv2
import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
if not importlib.util.find_spec('pycolmap'):  # importing it before OpenCV breaks that
    pytest.skip('these need pycolmap', allow_module_level=True)

from bag_runs import kill_after, Killed, sha256
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.request import ExtractRequest
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import DataError
from kpfeat_core.factory import create_extractor
from made_bags import (
    camera_info,
    COMPRESSED,
    compressed,
    header,
    images,
    LOG_DELAY,
    Made,
    make,
    PERIOD,
    pictures,
    SIZE,
    START,
    write_bag,
)
import numpy as np
import pycolmap

COUNT = 4
TOPIC = '/left/image_raw/compressed'
# Without the libraries of the tests beside it, which COLMAP does not always bear.
MATCH = """
import json, sys
import pycolmap
pycolmap.set_random_seed(0)
options = pycolmap.FeatureMatchingOptions(num_threads=1)
options.sift.max_ratio = 0.95
options.sift.cpu_brute_force_matcher = sys.argv[2] == 'product'
pairs = pycolmap.SequentialPairingOptions(overlap=2, quadratic_overlap=False)
pycolmap.match_sequential(sys.argv[1], options, pairs, device=pycolmap.Device.cpu)
with pycolmap.Database.open(sys.argv[1]) as database:
    points = {i.image_id: database.read_keypoints(i.image_id) for i in database.read_all_images()}
    names = {i.image_id: i.name for i in database.read_all_images()}
    found = []
    for pair, geometry in zip(*database.read_two_view_geometries()):
        first, second = pycolmap.pair_id_to_image_pair(pair)
        rows = geometry.inlier_matches
        moved = points[second][rows[:, 1]] - points[first][rows[:, 0]]
        found.append([names[first], names[second], moved[:, :2].tolist()])
print(json.dumps(found))
"""


@pytest.fixture(scope='module')
def extractor():
    return create_extractor('alike-t', max_num_keypoints=300)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """Write two cameras, one of which is calibrated, and comes as PNG."""
    left = [
        Made(TOPIC, COMPRESSED, one.time, compressed(p, one.time - LOG_DELAY))
        for one, p in zip(images(COUNT), pictures(COUNT), strict=True)
    ]
    made = [camera_info(START), *left, *images(COUNT, '/right/image_raw', (120, 80))]
    made.sort(key=lambda one: one.time)
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag', made)


@pytest.fixture
def extract(extractor, bag, tmp_path):
    """Return a function that extracts, by default from `bag` to out.db."""

    def extract(source=bag, on_image=lambda report: None, **options):
        options = {'format': 'colmap', 'out': tmp_path / 'out.db', **options}
        return extract_recording(ExtractRequest(source, **options), extractor, on_image)

    return extract


def open_database(path):
    return pycolmap.Database.open(path)


def match(path, how):
    """Return the two names of each pair that COLMAP verifies, and how inliers move (N, 2)."""
    command = [sys.executable, '-c', MATCH, str(path), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {(a, b): np.array(moved).reshape(-1, 2) for a, b, moved in found}


def test_a_database_has_all_images_each_with_keypoints_that_begin_at_the_corner(
    extract, extractor, tmp_path
):
    report = extract()
    assert (report.features, report.complete) == (2 * COUNT, True)
    with open_database(tmp_path / 'out.db') as database:
        assert (database.num_images(), database.num_frames()) == (2 * COUNT, 2 * COUNT)
        for k, pixels in enumerate(pictures(COUNT, (120, 80))):
            stamp = START + k * PERIOD
            image = database.read_image_with_name(f'right/{stamp}.jpg')
            keypoints = database.read_keypoints(image.image_id)
            expected = extractor.extract(pixels).keypoints[0].numpy() + np.float32(0.5)
            assert np.array_equal(keypoints, expected)
            descriptors = database.read_descriptors(image.image_id)
            assert descriptors.type == pycolmap.FeatureExtractorType.SIFT
            assert descriptors.data.shape == (len(expected), 128)


def test_cameras_are_those_of_camera_info_or_a_guess_and_rigs_of_their_own(extract, tmp_path):
    extract()
    with open_database(tmp_path / 'out.db') as database:
        left, right = database.read_all_cameras()
        assert (left.model_name, left.has_prior_focal_length) == ('OPENCV', True)
        assert left.params.tolist() == [50, 50, 48.5, 32.5, -0.2, 0.05, 0, 0]
        assert (right.model_name, right.has_prior_focal_length) == ('SIMPLE_RADIAL', False)
        assert right.params.tolist() == [144, 60, 40, 0]
        assert [(c.width, c.height) for c in (left, right)] == [SIZE, (120, 80)]
        sensors = [rig.ref_sensor_id.id for rig in database.read_all_rigs()]
        assert sensors == [left.camera_id, right.camera_id]


def test_keypoints_without_distortion_belong_to_a_pinhole_camera(extract, tmp_path):
    extract(topics=(TOPIC,), view=ViewConfig(undistort=True))
    with open_database(tmp_path / 'out.db') as database:
        (camera,) = database.read_all_cameras()
        assert (camera.model_name, camera.params.tolist()) == ('PINHOLE', [50, 50, 48.5, 32.5])


def test_a_topic_with_images_of_two_sizes_has_two_cameras(extract, tmp_path):
    later = images(2, size=(80, 60), start=START + 10**9)
    extract(write_bag(tmp_path / 'sizes', images(2) + later))
    with open_database(tmp_path / 'out.db') as database:
        assert [(c.width, c.height) for c in database.read_all_cameras()] == [SIZE, (80, 60)]
        cameras = [image.camera_id for image in database.read_all_images()]
        assert cameras == [1, 1, 2, 2]


def test_names_sort_by_time_even_where_clocks_begin_at_zero(extract, tmp_path):
    extract(write_bag(tmp_path / 'simulated', images(3, start=0)))
    with open_database(tmp_path / 'out.db') as database:
        names = [image.name for image in database.read_all_images()]
        assert names == sorted(names) and names[0] == f'left/{"0" * 19}.jpg'


@pytest.mark.parametrize('how', ['distance', 'product'])
def test_colmap_matches_and_verifies_frames_of_a_known_motion(extract, tmp_path, how):
    made = images(COUNT, size=(320, 240))
    extract(write_bag(tmp_path / 'moving', made))
    pairs = match(tmp_path / 'out.db', how)
    assert len(pairs) == 2 * COUNT - 3
    for (first, second), moved in pairs.items():
        frames = (int(second[5:-4]) - int(first[5:-4])) // PERIOD
        assert len(moved) > 100
        assert np.abs(moved.mean(0) - [-3 * frames, 0]).max() < 0.1  # 3 pixels a frame
        assert np.abs(moved - [-3 * frames, 0]).max() < 4  # what COLMAP takes for an inlier


def test_colmap_matches_a_real_recording(extract, shared, tmp_path):
    bag = shared / 'data/bags/tum_fr2_mcap_compressed'
    if not bag.is_dir():
        pytest.skip(f'no recording at {bag}')
    extract(bag)
    inliers = [len(moved) for moved in match(tmp_path / 'out.db', 'distance').values()]
    assert len(inliers) == 37 and min(inliers) > 50 and np.median(inliers) > 120


def test_the_same_input_gives_the_same_bytes_however_often_it_was_killed(extract, tmp_path):
    extract(pictures=True)
    expected = sha256(tmp_path / 'out.db')
    for count in (1, 5):
        with pytest.raises(Killed):
            extract(on_image=kill_after(count), pictures=True)
        assert sha256(tmp_path / 'out.db') == expected  # what was there before
    report = extract(pictures=True)
    assert (report.resumed, sha256(tmp_path / 'out.db')) == (5, expected)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'out.db', 'out.db.images'}


def test_pictures_have_the_names_in_the_database_and_the_pixels_of_the_images(extract, tmp_path):
    extract(pictures=True, stride=2)
    folder = tmp_path / 'out.db.images'
    with open_database(tmp_path / 'out.db') as database:
        names = {image.name for image in database.read_all_images()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob('*.jpg')}
    assert found == names and len(names) == COUNT
    expected = pictures(COUNT)[2]
    picture = cv2.imread(str(folder / f'left/{START + 2 * PERIOD}.jpg'), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 3  # JPEG is not exact


def test_pictures_that_come_as_jpeg_stay_as_they_are(extract, tmp_path):
    data = cv2.imencode('.jpg', pictures(1)[0])[1]
    message = make(COMPRESSED, header=header(START), format='jpeg', data=data)
    extract(
        write_bag(tmp_path / 'jpeg', [Made('/a/b', COMPRESSED, START, message)]), pictures=True
    )
    written = (tmp_path / f'out.db.images/a/{START}.jpg').read_bytes()
    assert written == data.tobytes()


@pytest.mark.parametrize(
    'options, sentence',
    [
        ({'view': ViewConfig(undistort=True), 'pictures': True}, 'leave out --undistort'),
        ({'copy': ('*',)}, 'topics cannot be copied to colmap'),
        ({'annotations': True}, '--annotations goes with --format bag'),
    ],
)
def test_options_that_do_not_go_together_are_refused(extract, tmp_path, options, sentence):
    with pytest.raises(DataError, match=sentence):
        extract(**options)
    assert not list(tmp_path.iterdir())


def test_names_that_are_taken_by_other_things_are_refused(extract, tmp_path):
    (tmp_path / 'out.db').mkdir()
    with pytest.raises(DataError, match='a folder'):
        extract()
    (tmp_path / 'other.db.images').mkdir()
    with pytest.raises(DataError, match='in the way'):
        extract(out=tmp_path / 'other.db', pictures=True)


def test_without_pycolmap_the_error_says_what_to_install(extract, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pycolmap', None)
    with pytest.raises(DataError, match=r"pip install 'kpfeat\[colmap\]'"):
        extract()


def test_a_run_that_is_ended_says_nothing_of_it(bag, tmp_path):
    code = (
        'import os, signal, sys; from pathlib import Path; '
        'from kpfeat_core.bags import extract, request;'
        'wanted = request.ExtractRequest(Path(sys.argv[1]), Path(sys.argv[2]), format="colmap");'
        'end = lambda report: report.images and os.kill(os.getpid(), signal.SIGTERM);'
        'extract.extract_recording(wanted, on_image=end)'
    )
    command = [sys.executable, '-c', code, str(bag), str(tmp_path / 'out.db')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, '')
    assert not (tmp_path / 'out.db').exists()
