"""Descriptors as the bytes of a Features message: four types, the constants of Features.msg."""

from enum import IntEnum

import numpy as np

from ..errors import ShapeError


class DescriptorType(IntEnum):
    """How one descriptor is stored; the values are those of the constants in Features.msg."""

    FLOAT32 = 0  # 4 bytes a number, exact
    FLOAT16 = 1  # 2 bytes a number
    INT8 = 2  # 1 byte a number, times descriptor_scale
    BINARY = 3  # 1 bit a number: its sign; low bit first, rows filled up to whole bytes


def pack_descriptors(descriptors: np.ndarray, kind: DescriptorType) -> tuple[np.ndarray, float]:
    """
    Turn descriptors (N, D) float32 into bytes (N * row,), little endian, and their scale.

    The scale is 1 except for INT8, where the largest number of the message becomes 127.
    """
    if kind == DescriptorType.FLOAT32:
        return _bytes(descriptors.astype('<f4', copy=False)), 1.0
    if kind == DescriptorType.FLOAT16:
        return _bytes(descriptors.astype('<f2')), 1.0
    if kind == DescriptorType.INT8:
        scale = float(np.float32(np.abs(descriptors).max(initial=0.0) / 127)) or 1.0
        return _bytes(np.rint(descriptors / scale).clip(-127, 127).astype(np.int8)), scale
    return np.packbits(descriptors > 0, axis=1, bitorder='little').reshape(-1), 1.0


def unpack_descriptors(
    data: np.ndarray, count: int, size: int, kind: int, scale: float
) -> np.ndarray:
    """
    Turn the bytes of a message into descriptors (count, size) float32; raises ShapeError.

    Binary ones become +-1/sqrt(D), of unit length: their cosine is 1 - 2 * hamming distance / D.
    """
    names = ', '.join(f'{t.value} {t.name}' for t in DescriptorType)
    if kind not in list(DescriptorType):
        raise ShapeError(f'descriptor_type is {kind}, expected one of {names}')
    row = {0: 4 * size, 1: 2 * size, 2: size, 3: -(-size // 8)}[int(kind)]
    if len(data) != count * row:
        raise ShapeError(
            f'descriptors hold {len(data)} bytes, expected {count * row}: {count} rows of {row} '
            f'for {size} numbers of type {DescriptorType(kind).name}'
        )
    if kind == DescriptorType.BINARY:
        bits = np.unpackbits(data.reshape(count, row), axis=1, count=size, bitorder='little')
        return (2 * bits.astype(np.float32) - 1) / np.float32(np.sqrt(max(size, 1)))
    stored = data.view({0: '<f4', 1: '<f2', 2: 'i1'}[int(kind)]).reshape(count, size)
    exact = stored.astype(np.float32)
    return exact * np.float32(scale) if kind == DescriptorType.INT8 else exact


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
