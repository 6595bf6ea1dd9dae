"""Messages and arrays: lossless, with plain objects and, where rclpy is there, real messages."""

import array
import importlib
from pathlib import Path
import re
import sys
from types import SimpleNamespace

from kpfeat_core.errors import BadImageError, ShapeError
from kpfeat_core.features import Features
from kpfeat_core.matching import PairMatches
from kpfeat_core.messages import conversions
from kpfeat_core.messages.conversions import DescriptorType
from kpfeat_ros.images import image_to_array
import numpy as np
import pytest
import torch

MSG_FOLDER = Path(__file__).parents[2] / 'msg'
HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=7, nanosec=5), frame_id='camera_optical')


def plain(name: str) -> SimpleNamespace:
    """Stand in for a message: conversions need attributes only."""
    return SimpleNamespace()


def compiled(name: str) -> object:
    """Make a real message, as rclpy publishes it."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    package = 'sensor_msgs.msg' if name == 'Image' else 'kpfeat.msg'
    module = pytest.importorskip(package, reason='messages are not compiled (make test does it)')
    return getattr(module, name)()


BOTH = pytest.mark.parametrize('make', [plain, compiled])


def header_for(make) -> object:
    if make is plain:
        return HEADER
    std_msgs = pytest.importorskip('std_msgs.msg', reason='ROS 2 is not installed')
    header = std_msgs.Header(frame_id=HEADER.frame_id)
    header.stamp.sec, header.stamp.nanosec = HEADER.stamp.sec, HEADER.stamp.nanosec
    return header


def some_features(
    count: int = 5, dim: int = 16, padding: int = 0, extra: bool = False
) -> Features:
    random = torch.Generator().manual_seed(count)
    descriptors = torch.randn(1, count, dim, generator=random)
    arrays = {
        'keypoints': torch.rand(count, 2, generator=random).numpy() * 639,
        'keypoint_scores': torch.rand(count, generator=random).numpy(),
        'descriptors': torch.nn.functional.normalize(descriptors, dim=-1)[0].numpy(),
        'image_size': np.array([640, 480], np.float32),
    }
    if extra:
        arrays['scales'] = np.linspace(1, 3, count, dtype=np.float32)
        arrays['orientations'] = np.linspace(-3, 3, count, dtype=np.float32)
    features = Features.from_numpy(arrays)
    if not padding:
        return features
    return Features.cat([features, some_features(count + padding, dim, extra=extra)])


def some_pair(count: int = 4, matrix: bool = True) -> PairMatches:
    random = np.random.default_rng(count)
    return PairMatches(
        indices0=np.arange(count),
        indices1=np.arange(count)[::-1].copy() + 70_000,
        scores=random.random(count, np.float32),
        keypoints0=random.random((count, 2), np.float32) * 639,
        keypoints1=random.random((count, 2), np.float32) * 639,
        inliers=np.arange(count) % 2 == 0,
        geometry='homography',
        matrix=random.random((3, 3)) if matrix else None,
    )


@BOTH
@pytest.mark.parametrize('extra', [False, True])
@pytest.mark.parametrize('count', [0, 1, 300])
def test_features_survive_a_message_bit_by_bit(make, count, extra) -> None:
    features = some_features(count, extra=extra and count > 0)
    message = conversions.fill_features(make('Features'), features, header_for(make), 'alike-t')
    back = conversions.message_to_features(message).numpy()
    assert back.keys() == features.numpy().keys()
    for name, value in features.numpy().items():
        assert np.array_equal(back[name], value), name
    assert (message.model, message.width, message.height) == ('alike-t', 640, 480)
    assert message.header == header_for(make) and message.header.stamp.nanosec == 5


@pytest.mark.parametrize(('b', 'count'), [(0, 5), (1, 8)])
def test_the_image_of_a_batch_is_published_without_padding(b, count) -> None:
    features = some_features(5, padding=3)
    message = conversions.fill_features(plain('Features'), features, HEADER, b=b)
    assert len(message.scores) == count
    assert len(message.keypoints) == 2 * count
    assert len(message.descriptors) == count * 16 * 4


@BOTH
@pytest.mark.parametrize(
    ('kind', 'row', 'tolerance'),
    [
        (DescriptorType.FLOAT32, 64, 0),
        (DescriptorType.FLOAT16, 32, 5e-4),
        (DescriptorType.INT8, 16, 4e-3),
    ],
)
def test_smaller_descriptor_types_lose_no_more_than_they_must(make, kind, row, tolerance) -> None:
    features = some_features(50)
    message = conversions.fill_features(make('Features'), features, header_for(make), '', kind)
    assert len(message.descriptors) == 50 * row
    back = conversions.message_to_features(message)
    assert (back.descriptors - features.descriptors).abs().max() <= tolerance
    assert torch.equal(back.keypoints, features.keypoints)


@pytest.mark.parametrize('dim', [8, 13, 64])
def test_binary_descriptors_keep_their_signs_and_have_unit_length(dim) -> None:
    features = some_features(9, dim)
    message = conversions.fill_features(
        plain('Features'), features, HEADER, '', DescriptorType.BINARY
    )
    assert len(message.descriptors) == 9 * ((dim + 7) // 8)
    back = conversions.message_to_features(message).descriptors
    assert torch.equal(back > 0, features.descriptors > 0)
    assert torch.allclose(back.norm(dim=2), torch.ones(1, 9))


def test_descriptors_are_little_endian_rows() -> None:
    message = conversions.fill_features(plain('Features'), some_features(3, 2), HEADER)
    first = np.frombuffer(bytes(message.descriptors[:8]), '<f4')
    assert np.array_equal(first, some_features(3, 2).descriptors[0, 0].numpy())


@pytest.mark.parametrize('name', ['keypoints', 'descriptors', 'scales', 'orientations'])
def test_sequences_of_wrong_length_are_refused_by_name(name) -> None:
    message = conversions.fill_features(plain('Features'), some_features(extra=True), HEADER)
    setattr(message, name, getattr(message, name)[:-1])
    with pytest.raises(ShapeError, match=name):
        conversions.message_to_features(message)


def test_unknown_descriptor_type_is_refused_with_the_valid_ones() -> None:
    message = conversions.fill_features(plain('Features'), some_features(), HEADER)
    message.descriptor_type = 9
    with pytest.raises(ShapeError, match='0 FLOAT32, 1 FLOAT16, 2 INT8, 3 BINARY'):
        conversions.message_to_features(message)


@BOTH
@pytest.mark.parametrize('matrix', [True, False])
@pytest.mark.parametrize('count', [0, 4])
def test_matches_survive_a_message_bit_by_bit(make, count, matrix) -> None:
    pair = some_pair(count, matrix)
    header0, header = header_for(make), header_for(make)
    message = conversions.fill_matches(make('Matches'), pair, header0, header)
    back = conversions.message_to_matches(message)
    for name in ('indices0', 'indices1', 'scores', 'keypoints0', 'keypoints1', 'inliers'):
        assert np.array_equal(getattr(back, name), getattr(pair, name)), name
    assert back.geometry == 'homography'
    assert (back.matrix is None) == (not matrix)
    assert not matrix or np.array_equal(back.matrix, pair.matrix)
    assert message.header0 is header0
    assert message.header is header


def test_matches_of_wrong_length_are_refused_by_name() -> None:
    message = conversions.fill_matches(plain('Matches'), some_pair(), HEADER, HEADER)
    message.inliers = message.inliers[:-1]
    with pytest.raises(ShapeError, match='inliers holds 3 numbers, expected 4'):
        conversions.message_to_matches(message)


@BOTH
@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 3)])
def test_picture_survives_a_message(make, shape) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    message = conversions.fill_image(make('Image'), pixels, header_for(make))
    assert np.array_equal(image_to_array(message), pixels)


def test_picture_that_is_not_uint8_is_refused() -> None:
    with pytest.raises(ShapeError, match='expected uint8'):
        conversions.fill_image(plain('Image'), np.zeros((4, 4)), HEADER)


def image(encoding: str) -> SimpleNamespace:
    return SimpleNamespace(
        encoding=encoding, width=2, height=2, step=16, is_bigendian=0, data=bytes(32)
    )


def test_unknown_encoding_names_itself_and_the_package_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(
        BadImageError, match="encoding '64FC1'.*cv_bridge is not installed"
    ) as error:
        image_to_array(image('64FC1'))
    assert error.value.kind == 'encoding'


def test_other_encodings_go_through_cv_bridge_where_it_is_installed(monkeypatch) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, message, desired_encoding):
            return (message.encoding, desired_encoding)

    bridge = SimpleNamespace(CvBridge=Bridge, CvBridgeError=RuntimeError)
    monkeypatch.setitem(sys.modules, 'cv_bridge', bridge)
    assert image_to_array(image('8UC2')) == ('8UC2', 'rgb8')


@pytest.mark.parametrize('name', ['rgb8', 'bgr8', 'mono8', 'bayer_rggb8', 'yuv422', 'mono16'])
def test_decoding_agrees_with_cv_bridge(name) -> None:
    cv_bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    if not hasattr(cv_bridge, 'CvBridge') or importlib.util.find_spec('rclpy') is None:
        pytest.skip('cv_bridge of ROS 2 is not installed')
    message = compiled('Image')
    bytes_each = {'rgb8': 3, 'bgr8': 3, 'yuv422': 2, 'mono16': 2}.get(name, 1)
    message.encoding, message.width, message.height = name, 16, 12
    message.step = 16 * bytes_each
    message.data = array.array('B', np.random.default_rng(0).bytes(12 * message.step))
    ours = image_to_array(message)
    gray = name.startswith('mono')
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(message, name if gray else 'rgb8')
    scale = 65535 if name == 'mono16' else 1
    assert np.array_equal(np.rint(ours * scale).astype(theirs.dtype), theirs)


def test_sequences_are_array_array_the_fast_way_into_a_message() -> None:
    message = conversions.fill_features(plain('Features'), some_features(), HEADER)
    codes = {'keypoints': 'f', 'scores': 'f', 'scales': 'f', 'descriptors': 'B'}
    for name, typecode in codes.items():
        assert isinstance(getattr(message, name), array.array)
        assert getattr(message, name).typecode == typecode


def constants(name: str) -> dict[str, int]:
    text = (MSG_FOLDER / f'{name}.msg').read_text()
    return {k: int(v) for k, v in re.findall(r'^uint8 ([A-Z0-9]+)=(\d+)', text, re.MULTILINE)}


def test_constants_of_the_messages_and_of_python_agree() -> None:
    assert constants('Features') == {kind.name: kind.value for kind in DescriptorType}
    assert constants('Matches') == {
        name.upper(): value for value, name in enumerate(conversions.GEOMETRIES)
    }
