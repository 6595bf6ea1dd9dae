"""`kpfeat evaluate` as a user runs it."""

from functools import partial
from html.parser import HTMLParser
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
from kpfeat_core.data.posed_scenes import read_scene
from kpfeat_core.evaluation.results import read_json
from kpfeat_core.evaluation.sources import FeatureCache
from kpfeat_core.image import read_image
import numpy as np
import pytest
from run_kpfeat import run as run_kpfeat


def run(*words, **environment):
    pytest.importorskip('rich')
    return run_kpfeat('evaluate', *words, **environment)


@pytest.fixture(scope='module')
def photograph():
    scene = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return cv2.resize(scene, (320, 240), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def sequences(tmp_path, photograph):
    """Write two sequences: a picture and its shift by 5 pixels, and a darker one."""
    for name, views, shift in (
        ('v_shift', (photograph[:, :300], photograph[:, 5:305]), -5),
        ('i_dark', (photograph, photograph // 2), 0),
    ):
        folder = tmp_path / 'planes' / name
        folder.mkdir(parents=True)
        for k, view in enumerate(views, 1):
            cv2.imwrite(str(folder / f'{k}.png'), view)
        np.savetxt(folder / 'H_1_2', [[1, 0, shift], [0, 1, 0], [0, 0, 1]])
    return tmp_path / 'planes'


@pytest.fixture
def photos(tmp_path, photograph):
    """Write a folder of one photograph."""
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos/a.png'), photograph)
    return tmp_path / 'photos'


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


def test_extractors_are_compared_in_tables_a_report_and_json(sequences, cache, tmp_path) -> None:
    out = tmp_path / 'report'
    result = run(
        'a=sift', 'orb', '--data', sequences, '--reference', 'a', '--out', out, '--cache', cache
    )
    assert result.exit_code == 0, result.output
    for words in ('planes: 2 pairs, protocol default', 'MMA@3', 'viewpoint', 'v_shift'):
        assert words in result.stdout
    assert 'difference from a' in result.stdout
    sift, orb = read_json(out / 'results.json')
    assert (sift.label, orb.label) == ('a', 'orb')
    assert sift.mean('MMA@3') > 0.9
    assert {'commit', 'command', 'machine', 'opencv', 'threads'} <= sift.about.keys()
    html = (out / 'report.html').read_text()
    HTMLParser().feed(html)
    assert html.count('data:image/') >= 4  # curves and examples
    assert str(tmp_path) not in json.dumps(dict(sift.about))


def test_synthetic_pairs_are_made_of_a_folder_of_photographs(photos, cache) -> None:
    words = ('sift', '--synthetic', photos, '--pairs', 4, '--cache', cache)
    first, second = run(*words), run(*words)
    assert first.exit_code == 0, first.output
    assert 'synthetic-4: 4 pairs' in first.stdout
    assert first.stdout == second.stdout  # times too: they were kept with the features


def test_poses_are_measured_from_a_file_of_pairs(tmp_path, photograph, cache) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    for name in ('a.png', 'b.png'):
        cv2.imwrite(str(images / name), photograph)
    intrinsics = [300, 0, 160, 0, 300, 120, 0, 0, 1]
    numbers = [*intrinsics, *intrinsics, *np.eye(4).ravel()]
    pairs = tmp_path / 'pairs.txt'
    pairs.write_text(f'a.png b.png 0 0 {" ".join(map(str, numbers))}\n')
    result = run('sift', '--poses', pairs, '--images', images, '--cache', cache)
    assert result.exit_code == 0, result.output
    assert 'protocol pose' in result.stdout
    assert 'pose_AUC@5' in result.stdout


def test_motion_is_measured_in_folders_with_poses(tmp_path, room_folder, cache) -> None:
    scene, cameras = tmp_path / 'drive/room', read_scene(room_folder)
    shutil.copytree(room_folder / 'images', scene / 'images')
    for name in ('intrinsics', 'poses'):
        (scene / f'{name}.txt').write_text('')
    for k, name in enumerate(cameras.names):
        size = read_image(scene / 'images' / name).shape[1::-1]
        K, pose = cameras.intrinsics[k], cameras.poses[k]
        numbers = {
            'intrinsics': [*size, K[0, 0], K[1, 1], *K[:2, 2]],
            'poses': [*pose[:3, :3].ravel(), *pose[:3, 3]],
        }
        for table, values in numbers.items():
            with (scene / f'{table}.txt').open('a') as file:
                file.write(' '.join([name, *map(str, values)]) + '\n')
    (scene / 'pairs.txt').write_text(' '.join(cameras.names) + '\n')
    result = run('sift', '--data', tmp_path / 'drive', '--cache', cache, '--out', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    assert 'drive: 1 pairs, protocol motion' in result.stdout
    assert 'epipolar@2' in result.stdout
    (found,) = read_json(tmp_path / 'out/results.json')
    assert found.mean('pose_AUC@20') > 0.8 and found.mean('epipolar@2') > 0.4
    result = run('sift', '--data', tmp_path / 'drive', '--protocol', 'default')
    assert result.exit_code == 2 and 'it alone, not default' in result.stderr


def test_examples_are_drawn_of_the_pairs_that_they_name(tmp_path, photos, cache) -> None:
    words = ('--synthetic', photos, '--pairs', 9, '--limit', 9, '--cache', cache)
    result = run('orb', *words, '--out', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    (orb,) = read_json(tmp_path / 'out/results.json')
    assert set(orb.origins) == {'a'}
    html = (tmp_path / 'out/report.html').read_text()
    assert (html.count('alt="best pair'), html.count('alt="worst pair')) == (3, 3)
    assert 'features kept in' in result.stderr


def test_an_interruption_is_silent_and_the_next_run_goes_on(sequences, cache, monkeypatch) -> None:
    inner, calls = FeatureCache._extract, []

    def extract(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(self, image)

    monkeypatch.setattr(FeatureCache, '_extract', extract)
    words = ('sift', '--data', sequences, '--cache', cache)
    assert run(*words).exit_code == 130
    assert run(*words).exit_code == 0
    assert len(calls) == 3 + 2


def test_an_interruption_of_several_processes_is_silent(photos, cache) -> None:
    words = ['sift', '--synthetic', photos, '--pairs', 4000, '-j', 2]
    command = [sys.executable, '-m', 'kpfeat_core.cli', 'evaluate', *words, '--cache', cache]
    process = subprocess.Popen(
        [str(word) for word in command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to all of them
        # it has none where the tests run in the background of a shell
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and len(list(cache.rglob('[!.]*.npz'))) < 4:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert not list(cache.rglob('.*'))  # nothing half-written
    result = run(*words[:4], 4, '--cache', cache)
    assert result.exit_code == 0, result.output


def test_no_features_are_kept_where_they_are_not_wanted(sequences, cache) -> None:
    result = run('orb', '--data', sequences, '--no-cache', KPFEAT_CACHE=str(cache))
    assert result.exit_code == 0, result.output
    assert not list(cache.rglob('*.npz'))
    run('orb', '--data', sequences, KPFEAT_CACHE=str(cache))
    assert len(list(cache.rglob('*.npz'))) == 4


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (('surf', '--data', 'DATA'), "there is no model 'surf'"),
        (('sift', 'sift', '--data', 'DATA'), 'labels must differ'),
        (('sift', '--data', 'DATA', '--protocol', 'kitti'), "there is no protocol 'kitti'"),
        (('sift', '--data', 'DATA', '--reference', 'x'), "reference is 'x'"),
        (('alike-t:missing.pth', '--data', 'DATA'), "there is no checkpoint 'missing.pth'"),
        (('sift', '--data', 'DATA'), 'i_dark/2.png'),
        (('sift',), '0 of --data, --synthetic and --poses are given'),
        (('sift', '--data', 'nowhere'), "there is no folder 'nowhere'"),
        (('sift', '--data', 'DATA', '--limit', '0'), 'limit is 0, expected at least 1'),
        (('sift', '--data', 'DATA', '--workers', '0'), 'workers is 0, expected at least 1'),
        (('sift', '--data', 'DATA', '--protocol', 'pose'), "the protocol 'pose' is for --poses"),
        (('sift', '--poses', 'x', '--protocol', 'd2net'), "the protocol 'pose' is for --poses"),
        (('sift', '--data', 'DATA', '--protocol', 'motion'), "'motion' is for scenes in --data"),
        (('sift', '--data', 'DATA', '--images', 'x'), '--images is given without --poses'),
        (('sift', '--data', 'DATA', '--out', 'DATA/v_shift/H_1_2'), 'File exists'),
    ],
)
def test_a_mistake_or_an_image_that_cannot_be_read_is_one_sentence(
    sequences, cache, words, text
) -> None:
    (sequences / 'i_dark/2.png').write_bytes(b'nothing')
    words = [word.replace('DATA', str(sequences)) for word in words]
    result = run(*words, '--cache', cache)
    assert result.exit_code == 2
    assert text in result.stderr
    assert 'Traceback' not in result.output
