"""Every encoding of `encodings.py` on pictures small enough to check by hand."""

import struct
from types import SimpleNamespace

import cv2
from kpfeat_core.errors import BadImageError, ImageError
from kpfeat_core.messages.encodings import (
    decode_file,
    decode_pixels,
    ENCODINGS,
    is_compressed_depth,
    spans_little,
    stored_depth,
)
import numpy as np
import pytest

# two rows of three pixels: red, green, blue; black, gray, white
RGB = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [128, 128, 128], [255, 255, 255]]],
    np.uint8,
)
GRAY = np.array([[0, 1, 2], [128, 254, 255]], np.uint8)
ORDER = {'rgb': [0, 1, 2], 'bgr': [2, 1, 0], 'rgba': [0, 1, 2, 3], 'bgra': [2, 1, 0, 3]}
NAMES = {
    '8UC3': 'bgr8',
    '8UC4': 'bgra8',
    '8UC1': 'mono8',
    '16UC3': 'bgr16',
    '16UC4': 'bgra16',
    '16UC1': 'mono16',
}


def message(data: bytes, encoding: str, width: int, height: int, step: int, big: bool = False):
    return SimpleNamespace(
        data=data, encoding=encoding, width=width, height=height, step=step, is_bigendian=big
    )


def decode(
    pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False, bits: int = 16
) -> np.ndarray:
    """Lay pixels out as a message does, with padding bytes of 0xAA after each row, and decode."""
    stored = pixels.astype(pixels.dtype.newbyteorder('>' if big else '<'))
    rows = np.ascontiguousarray(stored).reshape(len(pixels), -1).view(np.uint8)
    step = rows.shape[1] + padding
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAA).tobytes()
    return decode_pixels(message(data, encoding, pixels.shape[1], len(pixels), step, big), bits)


@pytest.mark.parametrize('padding', [0, 1, 5])
@pytest.mark.parametrize('name', ['rgb8', 'bgr8', 'rgba8', 'bgra8', '8UC3', '8UC4'])
def test_8_bit_colour_becomes_rgb_whatever_the_order_alpha_and_padding(name, padding) -> None:
    with_alpha = np.dstack([RGB, np.full(RGB.shape[:2], 7, np.uint8)])
    stored = with_alpha[..., ORDER[NAMES.get(name, name)[:-1]]]
    image = decode(stored, name, padding)
    assert image.dtype == np.uint8
    assert np.array_equal(image, RGB)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 1, 4])
@pytest.mark.parametrize('name', ['rgb16', 'bgr16', 'rgba16', 'bgra16', '16UC3', '16UC4'])
def test_16_bit_colour_respects_endianness_and_step(name, padding, big) -> None:
    wide = RGB.astype(np.uint16) * 257
    with_alpha = np.dstack([wide, np.full(RGB.shape[:2], 9, np.uint16)])
    image = decode(with_alpha[..., ORDER[NAMES.get(name, name)[:-2]]], name, padding, big)
    assert image.dtype == np.float32
    assert np.allclose(image, RGB / 255, atol=1e-6)


def test_gray_stays_gray_and_keeps_all_its_levels() -> None:
    stored = np.array([[0, 1, 256], [257, 32768, 65535]], np.uint16)
    for name, deep in (('mono8', 'mono16'), ('8UC1', '16UC1')):
        assert np.array_equal(decode(GRAY, name, padding=3), GRAY)
        for big in (False, True):
            image = decode(stored, deep, padding=1, big=big)
            assert np.array_equal(np.rint(image * 65535).astype(np.uint16), stored)
    image = decode_file(cv2.imencode('.png', stored)[1].tobytes())
    assert np.array_equal(np.rint(image * 65535).astype(np.uint16), stored)


@pytest.mark.parametrize('bits', [10, 12, 14])
def test_fewer_bits_in_16_fill_the_range_and_more_are_cut(bits) -> None:
    largest = 2**bits - 1
    stored = np.array([[0, 1], [largest, 65535]], np.uint16)
    expected = np.array([[0, 1 / largest], [1, 1]], np.float32)
    assert np.array_equal(decode(stored, 'mono16', bits=bits), expected)
    png = cv2.imencode('.png', stored)[1]
    assert np.array_equal(decode_file(png, pixel_bits=bits), expected)
    assert np.array_equal(decode(GRAY, 'mono8', bits=bits), GRAY)
    floats = np.array([[0.0, 0.2]], np.float32)
    assert np.array_equal(decode(floats, '32FC1', bits=bits), floats)


def test_zero_bits_stretch_each_image_whatever_a_few_broken_pixels_show() -> None:
    thermal = np.linspace(29000, 29600, 240 * 320).astype(np.uint16).reshape(240, 320)
    expected = (thermal - 29000) / 600
    thermal[39, 39], thermal[81, 81] = 0, 65535
    image = decode(thermal, 'mono16', bits=0)
    assert (image.min(), image.max()) == (0, 1)
    image[[39, 81], [39, 81]] = expected[[39, 81], [39, 81]]
    assert np.abs(image - expected).max() < 0.02
    flat = decode(np.full((4, 4), 500, np.uint16), 'mono16', bits=0)
    assert not flat.any() and flat.dtype == np.float32


def test_images_that_use_little_of_their_range_are_known() -> None:
    full = np.linspace(0, 1, 240 * 320, dtype=np.float32).reshape(240, 320)
    for bits in (10, 12, 14):
        few = full * np.float32((2**bits - 1) / 65535)
        few[3, 3] = 1  # a broken pixel
        assert spans_little(few)
    assert spans_little(full * 0.01 + 0.45)
    assert not spans_little(full)
    assert not spans_little(np.zeros((100, 100), np.uint8))


@pytest.mark.parametrize('big', [False, True])
def test_float_images_pass_and_three_channels_are_blue_first(big) -> None:
    gray = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert np.array_equal(decode(gray, '32FC1', 3, big), gray)
    bgr = np.ascontiguousarray(RGB[..., ::-1] / np.float32(255))
    assert np.allclose(decode(bgr, '32FC3', 2, big), RGB / 255)


def test_float_image_with_a_value_that_is_not_finite_or_beyond_one_is_refused() -> None:
    for value in (np.nan, np.inf, -np.inf):
        gray = np.full((4, 4), 0.5, np.float32)
        gray[2, 3] = value
        with pytest.raises(BadImageError, match='NaN or infinite') as error:
            decode(gray, '32FC1')
        assert error.value.kind == 'not_finite'
    with pytest.raises(BadImageError, match='from 0 to 255, expected 0 to 1') as error:
        decode(np.array([[0, 255]], np.float32), '32FC1')
    assert error.value.kind == 'range'


BAYER = {'rggb': 'RG/GB', 'bggr': 'BG/GR', 'gbrg': 'GB/RG', 'grbg': 'GR/BG'}


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', BAYER)
def test_bayer_pattern_starts_at_the_first_pixel(pattern, bits) -> None:
    colour = {'R': 200, 'G': 100, 'B': 40}  # one flat colour: demosaicing must give it back
    cell = np.array([[colour[c] for c in row] for row in BAYER[pattern].split('/')])
    mosaic = np.tile(cell, (5, 6)).astype(np.uint8)
    stored = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    image = decode(stored, f'bayer_{pattern}{bits}', padding=2)
    unit = image / 255 if bits == 8 else image
    assert image.shape == (10, 12, 3)
    assert np.allclose(unit[2:-2, 2:-2], np.array([200, 100, 40]) / 255, atol=1e-2)


# BT.601 video range: Y 16..235, chroma around 128
YUV_NAMES = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21', 'nv24', 'i420', 'yv12')
YUV = {'white': (235, 128, 128), 'red': (81, 90, 240), 'blue': (41, 240, 110)}
COLOURS = {'white': (255, 255, 255), 'red': (255, 0, 0), 'blue': (0, 0, 255)}


@pytest.mark.parametrize('colour', YUV)
@pytest.mark.parametrize('name', YUV_NAMES)
def test_yuv_formats_give_the_right_colours_with_padding(name, colour) -> None:
    y, u, v = YUV[colour]
    width, height, padding = 6, 4, 4
    luma = [[y] * width + [0] * padding] * height
    packed = {'uyvy': [u, y, v, y], 'yuyv': [y, u, y, v]}
    packed |= {'yuv422': packed['uyvy'], 'yuv422_yuy2': packed['yuyv']}
    if name in packed:
        rows = [packed[name] * (width // 2) + [0] * padding] * height
    elif name in ('nv12', 'nv21'):
        chroma = [u, v] if name == 'nv12' else [v, u]
        rows = luma + [chroma * (width // 2) + [0] * padding] * (height // 2)
    elif name in ('i420', 'yv12'):  # rows of two planes, each half as long as one of luma
        planes = [u, v] if name == 'i420' else [v, u]
        half = [[value] * (width // 2) + [0] * (padding // 2) for value in planes for _ in (0, 1)]
        rows = luma + half
    else:  # nv24: each row of chroma is as long as two of luma, padding at its end
        rows = luma + [[u, v] * width + [0] * (2 * padding)] * height
    data = bytes(value for row in rows for value in row)
    image = decode_pixels(message(data, name, width, height, len(rows[0])))
    assert image.shape == (height, width, 3)
    assert np.abs(image.astype(int) - COLOURS[colour]).max() <= 3


def test_each_pixel_of_nv24_has_its_own_colour() -> None:
    y, u, v = np.array([YUV['red'], YUV['blue'], YUV['white']]).T
    data = bytes([*y, *np.column_stack([u, v]).ravel()])
    image = decode_pixels(message(data, 'nv24', 3, 1, 3))
    assert np.abs(image[0].astype(int) - [COLOURS[c] for c in ('red', 'blue', 'white')]).max() <= 3


@pytest.mark.parametrize(
    ('width', 'height', 'step', 'size', 'kind'),
    [
        (0, 0, 0, 0, 'empty'),
        (4, 0, 12, 0, 'empty'),
        (4, 2, 11, 24, 'step'),
        (4, 2, 0, 24, 'step'),
        (4, 2, 12, 23, 'short_data'),
        (4, 2, 13, 24, 'short_data'),
        (4, 2, 12, 0, 'short_data'),
        (2**31, 2**31, 2**32 - 1, 24, 'step'),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_kind(width, height, step, size, kind) -> None:
    with pytest.raises(BadImageError) as error:
        decode_pixels(message(bytes(size), 'rgb8', width, height, step))
    assert error.value.kind == kind
    assert isinstance(error.value, ImageError)
    assert 'expected' in str(error.value)


@pytest.mark.parametrize('name', ['yuyv', 'nv21', 'bayer_rggb8'])
def test_odd_width_of_a_subsampled_format_is_refused(name) -> None:
    with pytest.raises(BadImageError, match='even sides') as error:
        decode_pixels(message(bytes(1000), name, 5, 4, 10))
    assert error.value.kind == 'size'


def test_no_bytes_of_any_encoding_crash_the_decoder() -> None:
    random = np.random.default_rng(0)
    for name in ENCODINGS:
        for _ in range(20):
            width, height, step, size = random.integers(0, 40, 4).tolist()
            try:
                data = random.bytes(size * 40)
                image = decode_pixels(message(data, name, width, height, step))
            except BadImageError:
                continue
            assert image.shape[:2] == (height, width)


def test_planes_of_chroma_with_an_odd_step_are_refused() -> None:
    with pytest.raises(BadImageError, match='an even number'):
        decode_pixels(message(bytes(1000), 'i420', 4, 4, 5))


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', BAYER)
def test_a_compressed_mosaic_is_what_it_would_be_raw(pattern, bits) -> None:
    mosaic = np.random.default_rng(3).integers(0, 2**bits, (20, 24)).astype(f'u{bits // 8}')
    name = f'bayer_{pattern}{bits}'
    raw = decode(mosaic, name)
    data = cv2.imencode('.png', mosaic)[1].tobytes()
    assert np.array_equal(decode_file(data, f'{name}; png compressed '), raw)
    assert decode_file(data, 'mono8; png compressed ').ndim == 2
    if bits == 8:
        jpeg = cv2.imencode('.jpg', np.full((20, 24), 90, np.uint8))[1].tobytes()
        flat = decode_file(jpeg, f'{name}; jpeg compressed ')
        assert flat.shape == (20, 24, 3) and np.abs(flat.astype(int) - 90).max() <= 2
    color = cv2.imencode('.png', np.full((20, 24, 3), (1, 2, 3), np.uint8))[1].tobytes()
    found = decode_file(color, f'{name}; png compressed bgr8')
    assert np.array_equal(found[0, 0], [3, 2, 1])


def test_a_compressed_mosaic_with_an_odd_side_is_refused_as_raw_is() -> None:
    data = cv2.imencode('.png', np.zeros((5, 6), np.uint8))[1].tobytes()
    with pytest.raises(BadImageError, match='even sides'):
        decode_file(data, 'bayer_rggb8; png compressed ')


def rvl(depths: np.ndarray) -> bytes:
    """Encode as the published program does, number by number."""
    nibbles, before, flat = [], 0, depths.ravel().tolist()

    def put(value: int) -> None:
        while True:
            value, nibble = value >> 3, value & 7
            nibbles.append(nibble | (8 if value else 0))
            if not value:
                return

    at = 0
    while at < len(flat):
        zeros = next((k for k, v in enumerate(flat[at:]) if v), len(flat) - at)
        at += zeros
        known = next((k for k, v in enumerate(flat[at:]) if not v), len(flat) - at)
        put(zeros)
        put(known)
        for value in flat[at : at + known]:
            delta, before = value - before, value
            put(2 * delta if delta >= 0 else -2 * delta - 1)
        at += known
    nibbles += [0] * (-len(nibbles) % 8)
    groups = (nibbles[k : k + 8] for k in range(0, len(nibbles), 8))
    words = [int(''.join(f'{n:x}' for n in group), 16) for group in groups]
    return struct.pack('<2i', *depths.shape[::-1]) + struct.pack(f'<{len(words)}I', *words)


@pytest.mark.parametrize('form', ['16UC1; compressedDepth', '16UC1; compressedDepth png', ''])
def test_depths_of_compressed_depth_are_what_they_were(form) -> None:
    depths = np.random.default_rng(0).integers(0, 9000, (12, 16)).astype(np.uint16)
    data = bytes(12) + cv2.imencode('.png', depths)[1].tobytes()
    assert is_compressed_depth(form, data)
    found, encoding = stored_depth(data, form)
    assert encoding == '16UC1' and np.array_equal(found, depths)
    assert np.array_equal(decode_file(data, form), decode(depths, '16UC1'))


def test_depths_of_rvl_are_what_they_were_and_damage_is_told() -> None:
    random = np.random.default_rng(1)
    for depths in (
        random.integers(0, 65536, (9, 16)),
        np.where(random.random((40, 30)) < 0.4, 0, random.integers(1, 5000, (40, 30))),
        np.zeros((3, 4), int),
    ):
        depths = depths.astype(np.uint16)
        data = bytes(12) + rvl(depths)
        found, encoding = stored_depth(data, '16UC1; compressedDepth rvl')
        assert encoding == '16UC1' and np.array_equal(found, depths)
    whole = bytes(12) + rvl(random.integers(1, 65536, (9, 16)).astype(np.uint16))
    for data in (whole[:60], whole[:14], bytes(5), whole[:12] + struct.pack('<2i', -1, 9)):
        with pytest.raises(BadImageError):
            stored_depth(data, '16UC1; compressedDepth rvl')


@pytest.mark.parametrize('form', ['32FC1; compressedDepth', ''])
def test_float_depths_come_back_from_their_inverse(form) -> None:
    depths = np.array([[0.5, 1.0, 2.0], [4.0, 9.0, np.nan]], np.float32)
    scale = np.float32(100 * 101)
    offset = np.float32(1 - scale / 10)  # as the transport has it for at most 10 m
    stored = np.nan_to_num(scale / depths + offset).round().astype(np.uint16)
    data = struct.pack('<iff', 0, scale, offset) + cv2.imencode('.png', stored)[1].tobytes()
    found, encoding = stored_depth(data, form)
    assert encoding == '32FC1'
    assert np.allclose(found, depths, rtol=0.01, equal_nan=True)


@pytest.mark.parametrize('ending', ['.png', '.jpg'])
def test_compressed_colour_and_gray_decode(ending) -> None:
    flat = np.full((40, 48, 3), (200, 100, 40), np.uint8)
    data = cv2.imencode(ending, flat[..., ::-1])[1].tobytes()
    assert np.abs(decode_file(data).astype(int) - flat).max() <= 2
    gray = cv2.imencode(ending, flat[..., 0])[1].tobytes()
    assert decode_file(gray).shape == (40, 48)


@pytest.mark.parametrize('data', [b'', b'not a picture', b'\xff\xd8\xff\xe0 cut'])
def test_broken_compressed_data_is_refused(data) -> None:
    with pytest.raises(BadImageError, match='cannot be decoded') as error:
        decode_file(data, 'jpeg')
    assert error.value.kind == 'compressed'
