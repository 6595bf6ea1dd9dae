"""Videos and contact sheets of recordings."""

from dataclasses import replace
import sys

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
pytest.importorskip('av', reason='videos need PyAV')

import av
from bag_runs import sha256
from kpfeat_core import video as video_module
from kpfeat_core.bags.extract import extract_recording
from kpfeat_core.bags.frames import FeatureFrame
from kpfeat_core.bags.render import draw_keypoints, render_extracted, render_recording
from kpfeat_core.bags.request import (
    ExtractRequest,
    FramesRequest,
    MATCHES,
    RenderConfig,
    SHOWN,
)
from kpfeat_core.config import ViewConfig
from kpfeat_core.errors import DataError
from kpfeat_core.features import Features
from kpfeat_core.image import read_image
from kpfeat_core.video import Video
from made_bags import (
    IMAGE,
    image,
    images,
    Made,
    PERIOD,
    pictures,
    SIZE,
    START,
    storage_file,
    truncate,
    write_bag,
)
import numpy as np

COUNT = 8
LINE = 22  # pixels below the picture


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    made = images(COUNT)
    late = 3 * PERIOD  # a gap before the last two
    made[-2:] = [replace(one, time=one.time + late) for one in made[-2:]]
    return write_bag(tmp_path_factory.mktemp('bags') / 'drive', made)


@pytest.fixture
def render(extractor, bag, tmp_path):
    """Return a function that renders a recording; paths are names in the temporary folder."""

    def render(video='drive.mp4', sheet=None, source=bag, config=None, on_image=None, **options):
        if 'features' in options:
            options['features'] = str(options['features'])
        return render_recording(
            FramesRequest(source, **options),
            tmp_path / video if video else None,
            tmp_path / sheet if sheet else None,
            config=RenderConfig(**(config or {})),
            extractor=extractor,
            on_image=on_image or (lambda report: None),
        )

    return render


def frames_of(path):
    with av.open(str(path)) as container:
        return [(f.time, f.to_ndarray(format='rgb24')) for f in container.decode(video=0)]


def test_frames_have_the_log_times_with_gaps_as_they_were(render, tmp_path):
    report = render()
    assert report.complete and report.files == [tmp_path / 'drive.mp4']
    assert (report.images, report.features, report.keypoints) == (COUNT, COUNT, 40 * COUNT)
    times = [time for time, _ in frames_of(tmp_path / 'drive.mp4')]
    expected = [0.1 * k for k in range(COUNT - 2)] + [0.9, 1.0]
    assert times == pytest.approx(expected, abs=1e-3)


def test_a_video_is_what_browsers_and_phones_play(render, tmp_path):
    report = render()
    assert report.is_h264
    with av.open(str(tmp_path / 'drive.mp4')) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ('h264', 'yuv420p')
        assert (context.width, context.height) == (SIZE[0], SIZE[1] + LINE)


def test_the_same_input_gives_the_same_bytes(render, tmp_path):
    render('a.mp4', 'a.png')
    render('b.mp4', 'b.png')
    assert sha256(tmp_path / 'a.mp4') == sha256(tmp_path / 'b.mp4')
    assert sha256(tmp_path / 'a.png') == sha256(tmp_path / 'b.png')


def test_speed_changes_times_only(render, tmp_path):
    render(config={'speed': 4.0})
    times = [time for time, _ in frames_of(tmp_path / 'drive.mp4')]
    assert times[-1] == pytest.approx(0.25, abs=1e-3) and len(times) == COUNT


@pytest.mark.parametrize('show', SHOWN)
def test_what_is_drawn_can_be_chosen(render, tmp_path, show):
    render(config={'show': show})
    _, last = frames_of(tmp_path / 'drive.mp4')[-1]
    picture = pictures(COUNT)[-1]
    wide = SIZE[0] + 8 if show == MATCHES else 0  # the image before, and the gap
    assert last.shape[:2] == (SIZE[1] + LINE, SIZE[0] + wide)
    inside = last[: SIZE[1], wide:].astype(int)
    coloured = np.ptp(inside, axis=2) > 60
    assert 0.02 < coloured.mean() < 0.9
    plain = ~coloured
    assert np.abs(inside.mean(2) - picture)[plain].mean() < 40
    assert last[SIZE[1] :].max() > 120  # there is a line of text


def test_times_that_do_not_grow_are_shown_one_after_the_other(tmp_path):
    with Video(tmp_path / 'a.mp4', (33, 21)) as video:
        for k, time in enumerate([0, 50, 50, 20, 100]):
            video.add(START + time * 1_000_000, np.full((21, 33, 3), 40 * k, np.uint8))
    found = frames_of(tmp_path / 'a.mp4')
    assert [time for time, _ in found] == pytest.approx([0, 0.05, 0.051, 0.052, 0.1], abs=1e-4)
    assert [round(float(frame.mean()), -1) for _, frame in found] == pytest.approx(
        [0, 40, 80, 120, 150], abs=10
    )


def test_pictures_of_another_size_are_put_on_black(tmp_path):
    with Video(tmp_path / 'a.mp4', (64, 48)) as video:
        video.add(0, np.full((48, 64, 3), 200, np.uint8))
        video.add(10**8, np.full((20, 128, 3), 200, np.uint8))
    _, last = frames_of(tmp_path / 'a.mp4')[1]
    assert last.shape == (48, 64, 3)
    assert last[22:26].mean() == pytest.approx(200, abs=4)
    assert last[:15].mean() < 10 and last[-15:].mean() < 10


def test_recordings_whose_images_change_in_size_become_one_video(render, tmp_path):
    made = images(3) + images(2, size=(64, 48), start=START + 3 * PERIOD)
    report = render(source=write_bag(tmp_path / 'bag', made))
    assert report.complete
    shapes = {frame.shape for _, frame in frames_of(tmp_path / 'drive.mp4')}
    assert shapes == {(SIZE[1] + LINE, SIZE[0], 3)}


def test_topics_have_files_of_their_own(render, tmp_path):
    made = sorted(images(3) + images(2, '/rig/right/image_raw'), key=lambda m: m.time)
    render('drive.mp4', 'drive.png', write_bag(tmp_path / 'bag', made))
    assert len(frames_of(tmp_path / 'drive.left.mp4')) == 3
    assert len(frames_of(tmp_path / 'drive.rig-right.mp4')) == 2
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {f'drive.{c}.{e}' for c in ('left', 'rig-right') for e in ('mp4', 'png')}


def test_a_sheet_alone_works_on_some_images_only(render, tmp_path):
    bag = write_bag(tmp_path / 'bag', images(60))
    report = render(None, 'drive.png', bag, {'tiles': 4})
    assert report.images == 12 and report.files == [tmp_path / 'drive.png']
    sheet = read_image(tmp_path / 'drive.png')
    gap = 6
    assert sheet.shape[:2] == (2 * (SIZE[1] + LINE) + gap, 2 * SIZE[0] + gap)
    tiles = [sheet[y : y + SIZE[1], x : x + SIZE[0]] for y in (0, 92) for x in (0, 102)]
    expected = [pictures(60)[k] for k in (0, 15, 30, 45)]
    for tile, picture in zip(tiles, expected, strict=True):
        likeness = [np.abs(tile.mean(2) - other).mean() for other in pictures(60)]
        assert np.abs(tile.mean(2) - picture).mean() == min(likeness)


def test_a_sheet_of_tracks_beside_a_video_sees_every_image(render, tmp_path):
    report = render('drive.mp4', 'drive.jpg', config={'tiles': 4})
    assert report.images == COUNT
    assert report.files == [tmp_path / 'drive.mp4', tmp_path / 'drive.jpg']


def test_keypoints_of_a_reduced_picture_are_where_they_belong():
    features = Features.from_numpy(
        {
            'keypoints': np.array([[159.5, 79.5]], np.float32),
            'keypoint_scores': np.ones(1, np.float32),
            'descriptors': np.zeros((1, 4), np.float32),
            'image_size': np.array([200, 100], np.float32),
        }
    )
    frame = FeatureFrame(
        0, 0, '/features', image=np.zeros((100, 200), np.uint8), features=features
    )
    picture = draw_keypoints(frame, 100)
    assert picture.shape == (50, 100, 3)
    rows, columns = np.nonzero(picture.max(2) > 60)
    assert (columns.mean(), rows.mean()) == pytest.approx((79.5, 39.5), abs=0.6)


def test_images_that_cannot_be_used_are_counted_and_left_out(render, tmp_path):
    made = images(5)
    made[2] = Made(made[2].topic, IMAGE, made[2].time, image(pictures(1)[0], START, 'hologram'))
    report = render(source=write_bag(tmp_path / 'bag', made))
    assert report.skipped == {'encoding': 1} and not report.complete
    times = [time for time, _ in frames_of(tmp_path / 'drive.mp4')]
    assert times == pytest.approx([0, 0.1, 0.3, 0.4], abs=1e-3)


def test_a_truncated_recording_is_shown_as_far_as_it_goes(render, tmp_path):
    bag = write_bag(tmp_path / 'bag', images(30), 'sqlite3')
    truncate(storage_file(bag), 0.7)
    report = render(source=bag)
    assert report.damage and not report.complete
    assert 0 < len(frames_of(tmp_path / 'drive.mp4')) == report.images < 30


def test_what_is_stopped_leaves_nothing_and_what_was_there_before(render, tmp_path):
    (tmp_path / 'drive.mp4').write_bytes(b'before')

    def stop(report):
        if report.images == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render('drive.mp4', 'drive.png', on_image=stop)
    assert [path.name for path in tmp_path.iterdir()] == ['drive.mp4']
    assert (tmp_path / 'drive.mp4').read_bytes() == b'before'


def test_recorded_features_give_the_same_video_as_made_ones(render, extractor, bag, tmp_path):
    render('made.mp4')
    wanted = ExtractRequest(bag, tmp_path / 'features.mcap', options={'max_num_keypoints': 40})
    extract_recording(wanted, extractor)
    report = render_extracted(wanted, tmp_path / 'recorded.mp4')
    assert report.complete
    assert sha256(tmp_path / 'made.mp4') == sha256(tmp_path / 'recorded.mp4')


def test_without_an_encoder_for_h264_another_one_serves_and_is_named(
    render, monkeypatch, tmp_path
):
    monkeypatch.setattr(av, 'codecs_available', {'mpeg4', 'gif'})
    report = render()
    assert (report.codec, report.is_h264) == ('mpeg4', False)
    assert len(frames_of(tmp_path / 'drive.mp4')) == COUNT
    monkeypatch.setattr(av, 'codecs_available', {'gif'})
    with pytest.raises(DataError, match='none of the encoders libx264'):
        video_module.find_codec()


def test_without_pyav_it_says_what_to_install(render, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(DataError, match=r"pip install 'kpfeat\[video\]'"):
        render()
    assert render(None, 'drive.png').complete  # a sheet needs none


def test_what_would_be_wrong_is_refused(render, bag, tmp_path):
    with pytest.raises(DataError, match='leave out undistort'):
        render(view=ViewConfig(undistort=True))
    with pytest.raises(DataError, match='is the input'):
        render(storage_file(bag))
    made = [Made('/a', IMAGE, START, image(pictures(1)[0], START, 'hologram'))]
    with pytest.raises(DataError, match="no image .* could be used: encoding is 'hologram'"):
        render(source=write_bag(tmp_path / 'bag', made))
    assert not (tmp_path / 'drive.mp4').exists()


def test_a_folder_that_cannot_be_written_to_is_an_error(render, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(OSError):
        render('file/drive.mp4')
