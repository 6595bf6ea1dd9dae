"""Picture files whole and cut off, as OpenCV's releases treat them differently."""

import cv2
from kpfeat_core.errors import BadImageError, ImageError
from kpfeat_core.image import decode_picture, read_image
from kpfeat_core.messages.encodings import decode_file
import numpy as np
import pytest

NOISE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
PICTURE = cv2.resize(NOISE, (128, 96))
KINDS = {
    'plain': ('.jpg', []),
    'progressive': ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    'restarts': ('.jpg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    'png': ('.png', []),
}


def encode(kind: str = 'plain', picture: np.ndarray = PICTURE) -> bytes:
    ending, options = KINDS[kind]
    return cv2.imencode(ending, picture, options)[1].tobytes()


def with_thumbnail() -> bytes:
    """Return a JPEG file with a smaller one in a segment before its pixels, as cameras do."""
    small, large = encode(picture=PICTURE[::8, ::8]), encode()
    segment = b'\xff\xe1' + (2 + len(small)).to_bytes(2, 'big') + small
    return large[:2] + segment + large[2:]


def decode(data: bytes) -> np.ndarray | None:
    return decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    'data', [*map(encode, KINDS), with_thumbnail()], ids=[*KINDS, 'thumbnail']
)
def test_a_picture_is_decoded_whole_and_refused_wherever_it_is_cut_off(data) -> None:
    assert np.abs(decode(data).astype(int) - PICTURE).mean() < 20
    for kept in (len(data) - 1, len(data) - 2, len(data) - 40, len(data) // 2, len(data) // 8, 3):
        assert decode(data[:kept]) is None


@pytest.mark.parametrize('after', [b'\0' * 500, b'\xff\xda other data', b'\xff\xd8\xff'])
def test_what_comes_after_a_picture_does_no_harm(after) -> None:
    assert np.array_equal(decode(encode() + after), decode(encode()))


def test_messages_and_files_that_are_cut_off_are_refused_in_words(tmp_path) -> None:
    data = encode()[:-500]
    with pytest.raises(BadImageError, match='cannot be decoded or is cut off'):
        decode_file(data, 'jpeg')
    (tmp_path / 'a.jpg').write_bytes(data)
    with pytest.raises(ImageError, match='or it is cut off'):
        read_image(tmp_path / 'a.jpg')


@pytest.mark.parametrize('data', [b'\xff\xd8', b'\xff\xd8\xff', b'\xff\xd8\xff\xff\0\0\xff\xd9'])
def test_headers_that_lead_nowhere_are_no_picture(data) -> None:
    assert decode(data) is None
