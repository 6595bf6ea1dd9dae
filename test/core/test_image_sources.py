"""Images from folders, videos and the virtual camera; what is broken is said in words."""

from pathlib import Path
import subprocess
import sys

import cv2
from kpfeat_core.errors import ConfigError, DataError, ImageError
from kpfeat_core.image import fit, write_image
from kpfeat_core.sources import create_source, parse_size, SourceConfig
from kpfeat_core.video import Video
import numpy as np
import pytest


def flat(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three images of grey levels 10, 20 and 30."""
    for value in (20, 10, 30):
        write_image(tmp_path / f'{value}.png', flat(value))
    return tmp_path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of 5 Hz with frames of grey levels 40, 80, ..., 200."""
    with Video(tmp_path / 'film.mp4', rate_hz=5.0) as film:
        for k in range(5):
            film.add(k * 200_000_000, flat(40 + 40 * k))
    return tmp_path / 'film.mp4'


def levels(source, count: int) -> list[int | None]:
    images = [source.next(0) for _ in range(count)]
    return [None if image is None else int(image.mean().round()) for image in images]


def test_images_come_by_name_and_start_again_unless_no_loop_is_wanted(folder) -> None:
    source = create_source(SourceConfig(images=str(folder)))
    assert levels(source, 4) == [10, 20, 30, 10]
    assert source.rate_hz == 10
    source = create_source(SourceConfig(images=str(folder), loop=False))
    assert levels(source, 5) == [10, 20, 30, None, None]


def test_broken_image_is_named_and_the_next_one_follows(folder) -> None:
    (folder / '15.png').write_bytes(b'not a picture')
    source = create_source(SourceConfig(images=str(folder)))
    assert levels(source, 1) == [10]
    with pytest.raises(ImageError, match='15.png'):
        source.next(0)
    assert levels(source, 1) == [20]


def test_folder_without_a_readable_image_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(DataError, match='holds no images'):
        create_source(SourceConfig(images=str(tmp_path)))
    (tmp_path / 'a.png').write_bytes(b'')
    with pytest.raises(DataError, match=r"none of the 1 images in .* can be read: '.*a\.png'"):
        create_source(SourceConfig(images=str(tmp_path)))


def test_video_comes_frame_by_frame_and_again_in_a_loop_at_its_rate_or_a_given_one(video) -> None:
    source = create_source(SourceConfig(video=str(video)))
    assert source.rate_hz == pytest.approx(5)
    assert np.allclose(levels(source, 7), [40, 80, 120, 160, 200, 40, 80], atol=3)
    source = create_source(SourceConfig(video=str(video), loop=False))
    assert levels(source, 7)[4:] == [pytest.approx(200, abs=3), None, None]
    assert create_source(SourceConfig(video=str(video), rate_hz=30.0)).rate_hz == 30


@pytest.mark.parametrize('content', [b'', b'not a video', None])
def test_broken_video_is_refused_in_words(video, content) -> None:
    video.write_bytes(video.read_bytes()[:200] if content is None else content)
    with pytest.raises(DataError, match='film.mp4. is not a video that OpenCV can decode'):
        create_source(SourceConfig(video=str(video)))


def test_broken_video_makes_no_noise_on_stderr(tmp_path) -> None:
    (tmp_path / 'film.mp4').write_bytes(b'not a video')
    program = (
        'from kpfeat_core.sources import *\n'
        f'try: VideoSource({str(tmp_path / "film.mp4")!r}, None, True)\n'
        'except DataError: pass'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_virtual_camera_shows_a_picture_of_ones_own_and_images_are_reduced_to_fit(
    tmp_path,
) -> None:
    write_image(tmp_path / 'wall.png', flat(90, 300, 400))
    config = SourceConfig(photograph=str(tmp_path / 'wall.png'), size='64x48')
    assert np.array_equal(create_source(config).next(123), flat(90))
    assert fit(flat(0, 600, 400), (320, 240)).shape == (240, 160, 3)
    assert fit(flat(0), (320, 240)).shape == (48, 64, 3)
    assert fit(flat(0, 600, 400), None).shape == (600, 400, 3)


@pytest.mark.parametrize(
    'text', ['640', '640x', 'x480', '640x480x3', '-1x480', 'big', '8x8', '٣x٤']
)
def test_size_that_is_none_is_refused(text) -> None:
    with pytest.raises(ConfigError, match='size is'):
        parse_size(text)


def test_sources_that_are_missing_or_exclude_each_other_are_refused() -> None:
    with pytest.raises(DataError, match="there is no video 'drive.mp4'"):
        create_source(SourceConfig(video='drive.mp4'))
    with pytest.raises(ConfigError, match='got images and video'):
        create_source(SourceConfig(images='a', video='b'))
    with pytest.raises(ConfigError, match='full'):
        create_source(SourceConfig(size='full'))


def read_all(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    return [video.read()[1] for _ in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT)))]


def test_film_plays_at_the_speed_of_its_stamps(tmp_path) -> None:
    with Video(tmp_path / 'a.mp4', rate_hz=10.0) as film:
        for stamp, value in ((0, 50), (300_000_000, 100), (400_000_000, 150)):
            film.add(stamp, flat(value))
    shown = [int(frame.mean().round()) for frame in read_all(tmp_path / 'a.mp4')]
    assert np.allclose(shown, [50, 50, 50, 100, 150], atol=6)


def test_film_of_a_camera_that_hardly_ever_sends_shows_a_picture_a_second(tmp_path) -> None:
    with Video(tmp_path / 'a.mp4', rate_hz=0.001) as film:
        for k in range(3):
            film.add(k * 10**12, flat(100))
    assert len(read_all(tmp_path / 'a.mp4')) == 3


def test_film_takes_pictures_of_other_sizes_and_odd_ones(tmp_path) -> None:
    with Video(tmp_path / 'a.mp4', rate_hz=10.0) as film:
        for stamp, shape in enumerate([(49, 65), (200, 300), (20, 20)]):
            film.add(stamp * 100_000_000, flat(100, *shape))
    frames = read_all(tmp_path / 'a.mp4')
    assert [frame.shape for frame in frames] == [(50, 66, 3)] * 3


def test_film_that_cannot_be_written_says_so(tmp_path) -> None:
    with (
        pytest.raises(DataError, match='cannot write the video'),
        Video(tmp_path / 'a', rate_hz=1.0) as film,
    ):
        film.add(0, flat(1))
