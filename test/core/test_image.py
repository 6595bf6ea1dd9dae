"""Reading, decoding, converting and resizing images; bad ones get a sentence."""

import struct

import cv2
from kpfeat_core.errors import BadImageError, ImageError
from kpfeat_core.image import (
    decode_picture,
    gaussian_blur,
    image_to_tensor,
    pad_to_stride,
    read_image,
    rescale_points,
    resize,
    scaled_size,
    upsample_rows,
    write_image,
)
from kpfeat_core.messages.encodings import decode_file
import numpy as np
import pytest
import torch


def test_a_written_image_is_read_back_as_rgb(tmp_path) -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    image[2, 3] = (250, 10, 20)
    write_image(tmp_path / 'new' / 'ä.png', image)
    np.testing.assert_array_equal(read_image(tmp_path / 'new' / 'ä.png'), image)


def test_missing_broken_and_empty_files_folders_and_odd_paths_are_told_apart(tmp_path) -> None:
    with pytest.raises(ImageError, match='is a folder, expected an image'):
        read_image(tmp_path)
    with pytest.raises(ImageError, match='x{300}.*name too long$'):
        read_image(tmp_path / (300 * 'x'))
    with pytest.raises(ImageError, match='there is no file'):
        read_image(tmp_path / 'none.png')
    (tmp_path / 'text.png').write_text('hello')
    (tmp_path / 'empty.png').touch()
    for name in ('text.png', 'empty.png'):
        with pytest.raises(ImageError, match=name) as error:
            read_image(tmp_path / name)
        assert '(-215' not in str(error.value)  # OpenCV's own words


def test_pictures_of_an_unknown_ending_or_of_no_bytes_are_not_written(tmp_path) -> None:
    with pytest.raises(ImageError, match='ending'):
        write_image(tmp_path / 'picture.xyz', np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ImageError, match='float32, expected uint8; `to_rgb8`'):
        write_image(tmp_path / 'a.png', np.ones((4, 4, 3), np.float32))


def test_uint8_and_float_gray_and_color_become_the_same_tensor() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (6, 8), np.uint8)
    expected = image_to_tensor(gray)
    assert expected.shape == (1, 3, 6, 8)
    for same in (np.repeat(gray[..., None], 3, 2), gray / 255, torch.from_numpy(gray)):
        torch.testing.assert_close(image_to_tensor(same), expected)


def test_rgb_becomes_gray_like_opencv_does() -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    expected = torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) / 255
    assert (image_to_tensor(image, 1)[0, 0] - expected).abs().max() < 1 / 255


@pytest.mark.parametrize(
    'image, reason',
    [
        (np.zeros((4, 4, 2), np.uint8), 'shape'),
        (np.zeros((2, 4, 4, 3), np.uint8), 'shape'),
        (np.zeros((4, 4), np.int32), 'type'),
        (np.zeros((4, 4), np.uint16), '65535 for 16 bits'),
        (np.zeros((0, 4), np.uint8), 'empty'),
        (np.full((4, 4), np.nan), 'NaN'),
        (np.full((4, 4), np.inf), 'infinite'),
        (np.full((4, 4), 255.0), 'divide'),
        (torch.zeros(2, 5, 4, 4), 'shape'),
        (torch.zeros(4, 4, dtype=torch.int64), 'type'),
    ],
)
def test_unusable_images_are_refused_with_the_reason(image, reason) -> None:
    with pytest.raises(ImageError, match=reason):
        image_to_tensor(image)


@pytest.mark.unchecked
@pytest.mark.parametrize('image', ['photo.jpg', None, [1, 2]])
def test_what_is_no_array_is_refused_with_its_type(image) -> None:
    with pytest.raises(ImageError, match=f'got {type(image).__name__}, expected an array'):
        image_to_tensor(image)


def test_a_read_only_array_is_taken_without_a_warning(recwarn) -> None:
    image = np.frombuffer(bytes(range(48)), np.uint8).reshape(4, 4, 3)
    assert image_to_tensor(image)[0, 1, 0, 0] == pytest.approx(1 / 255)
    assert not recwarn.list


def oriented_jpeg(path, image: np.ndarray, orientation: int) -> None:
    """Write a JPEG whose EXIF data say how the picture has to be turned."""
    write_image(path, image)
    data = path.read_bytes()
    entry = struct.pack('<HHII', 0x0112, 3, 1, orientation)
    exif = b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', 1) + entry + bytes(4)
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    path.write_bytes(data[:2] + segment + data[2:])


def test_a_photograph_taken_upright_is_read_upright(tmp_path) -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, :32] = 200
    oriented_jpeg(tmp_path / 'a.jpg', image, 6)  # to be turned clockwise by a quarter
    found = read_image(tmp_path / 'a.jpg')
    assert found.shape == (64, 40, 3)
    assert found[:30].min() > 150 and found[34:].max() < 50
    assert read_image(tmp_path / 'a.jpg', upright=False).shape == (40, 64, 3)


def test_all_bits_of_a_deep_file_are_read_where_asked(tmp_path) -> None:
    deep = (7000 + np.arange(256, dtype=np.uint16)).reshape(16, 16)
    cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    found = read_image(tmp_path / 'deep.png', all_bits=True)
    assert found.dtype == np.float32 and found.shape == (16, 16, 3)
    np.testing.assert_array_equal((found[..., 0] * 65535).round(), deep)
    cv2.imwrite(str(tmp_path / 'shallow.png'), deep.astype(np.uint8))
    assert read_image(tmp_path / 'shallow.png', all_bits=True).dtype == np.uint8


def test_gray_16_bit_and_transparent_files_become_rgb8(tmp_path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.repeat(gray[..., None], 3, 2)
    cv2.imwrite(str(tmp_path / 'gray.png'), gray)
    cv2.imwrite(str(tmp_path / 'deep.png'), gray.astype(np.uint16) * 256 + 200)
    cv2.imwrite(str(tmp_path / 'clear.png'), np.dstack([colour, np.zeros_like(gray)]))
    for name in ('gray.png', 'deep.png', 'clear.png'):
        found = read_image(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == (16, 16, 3)
        np.testing.assert_array_equal(found, colour)


def test_padding_goes_right_and_down_and_the_long_side_is_scaled_in_both_orientations() -> None:
    padded = pad_to_stride(torch.ones(1, 1, 5, 8), 8)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, :5].eq(1).all() and padded[0, 0, 5:].eq(0).all()
    assert scaled_size(480, 640, 320) == (240, 320)
    assert scaled_size(640, 480, 320) == (320, 240)
    assert scaled_size(640, 480, -1) == (640, 480)


def test_points_follow_a_resized_image_without_a_half_pixel_drift() -> None:
    image = torch.zeros(1, 1, 240, 320)
    y, x = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing='ij')
    image[0, 0] = (-((x - 101.3) ** 2 + (y - 77.7) ** 2) / 50).exp()
    for size in ((120, 160), (180, 240), (480, 640)):
        small = resize(image, size)[0, 0]
        rows, columns = torch.arange(float(size[0])), torch.arange(float(size[1]))
        found = torch.stack([(small.sum(0) * columns).sum(), (small.sum(1) * rows).sum()])
        found = rescale_points(found / small.sum(), size, (240, 320))
        assert (found - torch.tensor([101.3, 77.7])).abs().max() < 0.01


def test_fine_detail_is_averaged_and_not_skipped_where_an_image_shrinks() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing='ij')
    checks = ((x + y) % 2).float()[None, None]
    small = resize(checks, (9, 9))[..., 1:-1, 1:-1]
    assert (small - 0.5).abs().max() < 0.05


def test_an_array_keeps_a_layout_that_convolutions_have_a_fast_path_for() -> None:
    tensor = image_to_tensor(np.zeros((40, 60, 3), np.uint8))
    assert tensor.stride() == (40 * 60 * 3, 1, 60 * 3, 3)


def test_some_rows_of_an_upsampled_map_equal_those_of_the_whole() -> None:
    maps = torch.rand(2, 3, 5, 7)
    whole = torch.nn.functional.interpolate(maps, (33, 20), mode='bilinear', align_corners=True)
    for rows in (slice(0, 8), slice(8, 9), slice(25, 33), slice(0, 33)):
        found = upsample_rows(maps, (33, 20), rows)
        torch.testing.assert_close(found, whole[:, :, rows], atol=1e-6, rtol=0)
    single = upsample_rows(maps[:, :, :1], (33, 20), slice(3, 6))
    torch.testing.assert_close(single[:, :, :1], single[:, :, 1:2])


def test_a_gaussian_blur_is_that_of_opencv_for_one_sigma_and_for_many() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((2, 2, 20, 30), np.float32)
    sigmas = torch.tensor([0.8, 1.5])
    for b, blurred in enumerate(gaussian_blur(torch.from_numpy(images), sigmas, radius=4)):
        sigma = float(sigmas[b])
        alone = gaussian_blur(torch.from_numpy(images[b : b + 1]), sigma, radius=4)[0]
        torch.testing.assert_close(blurred, alone)
        expected = cv2.GaussianBlur(
            images[b].transpose(1, 2, 0), (9, 9), sigma, borderType=cv2.BORDER_REPLICATE
        )
        np.testing.assert_allclose(blurred.permute(1, 2, 0), expected, atol=1e-5)


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


def test_what_comes_after_a_picture_does_no_harm_and_headers_that_lead_nowhere_are_none() -> None:
    for after in (b'\0' * 500, b'\xff\xda other data', b'\xff\xd8\xff'):
        assert np.array_equal(decode(encode() + after), decode(encode()))
    for data in (b'\xff\xd8', b'\xff\xd8\xff', b'\xff\xd8\xff\xff\0\0\xff\xd9'):
        assert decode(data) is None


def test_messages_and_files_that_are_cut_off_are_refused_in_words(tmp_path) -> None:
    data = encode()[:-500]
    with pytest.raises(BadImageError, match='cannot be decoded or is cut off'):
        decode_file(data, 'jpeg')
    (tmp_path / 'a.jpg').write_bytes(data)
    with pytest.raises(ImageError, match='or it is cut off'):
        read_image(tmp_path / 'a.jpg')
