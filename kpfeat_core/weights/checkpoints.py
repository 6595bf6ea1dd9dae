"""Published checkpoints, and reading PyTorch's and TensorFlow's without running their code."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cache
import math
from pathlib import Path
import pickle
import re
import struct
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError

# Where training programs put the state dict, and their prefixes of its names.
CONTAINERS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights', 'params')
# Settings beside KP2D's published weights; a mapping, and read as that.
SETTINGS = 'yacs.config.CfgNode'
PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.')
# Of the table files of TensorFlow checkpoints
FOOTER_SIZE = 48
MAGIC = 0xDB4775248B80FB57
LONGEST_NUMBER = 70  # bits: ten bytes of seven
TRAILER_SIZE = 5  # of a block: one byte for the compression, four for the checksum
DATA_FILE = re.compile(r'\.data-\d{5}-of-\d{5}$')
TEXT = 7  # the number of the type of strings, which hold notes and no weights
NUMBER_TYPES = {
    1: '<f4',
    2: '<f8',
    3: '<i4',
    4: '<u1',
    5: '<i2',
    6: '<i1',
    9: '<i8',
    10: '|b1',
    19: '<f2',
}
ALIKE = 'https://github.com/Shiaoming/ALIKE/tree/main/models'
ASLFEAT = 'https://github.com/lzx551402/ASLFeat (the link in its README)'
HARDNET = 'https://github.com/DagnyT/hardnet/tree/master/pretrained'
KEYNET = 'https://github.com/axelBarroso/Key.Net-Pytorch/tree/main/model/weights'
KEYNET_TF = 'https://github.com/axelBarroso/Key.Net/tree/master/keyNet/pretrained_nets'
KP2D = 'https://tri-ml-public.s3.amazonaws.com/github/kp2d/models/pretrained_models.tar.gz'
SUPERPOINT = 'https://github.com/magicleap/SuperPointPretrainedNetwork'
OPEN_SUPERPOINT = 'https://github.com/rpautrat/SuperPoint/tree/master/weights'
UNSAID = 'MIT code; nothing is said of the weights'
NON_COMMERCIAL = 'research only: no commercial use, no redistribution'


class Published(NamedTuple):
    """
    One published checkpoint: the model that it is for, its file, its licence and its place.

    settings: for `--set`, where the file itself does not show them.
    """

    model: str
    file: str
    licence: str
    source: str
    settings: str = ''

    @property
    def command(self) -> str:
        """Return the command that turns the file into weights of ours."""
        chosen = f' --set {self.settings}' if self.settings else ''
        return f'kpfeat weights import {self.file} --model {self.model}{chosen} --out FILE'


SUPERPOINTS = ('superpoint', 'magicpoint')
PUBLISHED = (
    *(Published(f'alike-{x}', f'alike-{x}.pth', 'BSD-3-Clause', ALIKE) for x in 'tsnl'),
    Published('aslfeat', 'model.ckpt-380000.index', UNSAID, ASLFEAT),
    Published('hardnet', 'HardNet++.pth', 'MIT', HARDNET),
    Published('keynet', 'keynet_pytorch.pth', 'MIT', KEYNET),
    Published('keynet', 'model--1651.index', 'BSD-3-Clause-Clear', KEYNET_TF),
    *(Published('kp2d', f'v{n}.ckpt', 'MIT', KP2D, f'version=v{n}') for n in (4, 3, 2, 1, 0)),
    *(Published(x, 'superpoint_v6_from_tf.pth', 'MIT', OPEN_SUPERPOINT) for x in SUPERPOINTS),
    *(Published(x, 'superpoint_v1.pth', NON_COMMERCIAL, SUPERPOINT) for x in SUPERPOINTS),
)


def published_for(model: str) -> list[Published]:
    """Return the published checkpoints that can become weights of a model."""
    return [item for item in PUBLISHED if item.model == model]


def load_checkpoint(path: Path | str, device: torch.device | str = 'cpu') -> Any:
    """Read a file of `torch.save`, without running any code in it; raises WeightsError."""
    try:
        return _load_tensors(path, device)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path}' is not a checkpoint of tensors alone: it is damaged, or it holds Python "
            'objects, which are not run. Save its state_dict() with the program that made it'
        ) from error
    except Exception as error:  # of any kind: they come from the bytes of a damaged file
        raise WeightsError(
            f"'{path}' cannot be read as a checkpoint: it is cut off, damaged or of another kind; "
            'copy it again'
        ) from error


def _load_tensors(path: Path | str, device: torch.device | str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if SETTINGS not in str(error) or not hasattr(torch.serialization, 'safe_globals'):
            raise
    with torch.serialization.safe_globals([(OrderedDict, SETTINGS)]):
        return torch.load(path, map_location=device, weights_only=True)


def find_state_dict(content: Any, source: Path | str) -> dict[str, Tensor]:
    """
    Find the state dict in a checkpoint: the content itself or a well-known entry of it.

    Its names come without the prefixes of wrapped modules. Raises WeightsError.
    """
    if isinstance(content, Mapping):
        inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
        for state in (content, *inner):
            if state and all(isinstance(value, Tensor) for value in state.values()):
                return _strip_prefixes({str(key): value for key, value in state.items()})
    found = some_names([str(key) for key in content]) if isinstance(content, Mapping) else ''
    raise WeightsError(
        f"'{source}' holds no state dict: expected tensors by name, bare or under one of "
        f'{", ".join(CONTAINERS)}; found {found or type(content).__name__}'
    )


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of data-parallel, compiled or wrapped modules from all names."""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def some_names(names: list[str]) -> str:
    """Join the first three of many names for a message."""
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + more


def find_tf_index(path: Path | str) -> Path | None:
    """
    Return the index file of a TensorFlow checkpoint; None where the path names none.

    path: the .index file, a .data file beside it, or the part that both names share.
    """
    path = Path(path)
    if path.name.endswith('.index'):
        return path
    if DATA_FILE.search(path.name):
        return path.with_name(DATA_FILE.sub('.index', path.name))
    index = path.with_name(f'{path.name}.index')
    return index if index.is_file() and not path.is_file() else None


def read_tf_checkpoint(path: Path | str) -> dict[str, np.ndarray]:
    """
    Read all numbers of a TensorFlow checkpoint by variable name, strings left out.

    path: as in `find_tf_index`. Checksums are verified. Raises WeightsError if a file is missing,
    cut off or damaged, or holds something that this cannot read.
    """
    index = find_tf_index(path)
    if index is None or not index.is_file():
        raise WeightsError(
            f"there is no TensorFlow checkpoint '{path}': expected a pair of files such as "
            'model.ckpt-380000.index and model.ckpt-380000.data-00000-of-00001'
        )
    try:
        return _read_tensors(index)
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise _damaged(index) from error


def _damaged(path: Path) -> WeightsError:
    return WeightsError(
        f"'{path}' is no complete part of a TensorFlow checkpoint: it is cut off, damaged or of "
        'another kind; copy it again'
    )


def _read_tensors(index: Path) -> dict[str, np.ndarray]:
    records = dict(_records(index))
    header = _message(records.pop(b'', b''))
    if header.get(2, [0])[0] != 0:
        raise WeightsError(f"'{index}' was written on a big-endian machine, which is not read")
    shards = header.get(1, [1])[0]
    data: dict[Path, bytes] = {}
    tensors = {}
    for key, value in records.items():
        name, entry = key.decode(), _message(value)
        if entry.get(1) == [TEXT]:
            continue
        number = entry.get(3, [0])[0]
        file = index.with_suffix(f'.data-{number:05d}-of-{shards:05d}')
        if file not in data:
            if not file.is_file():
                raise WeightsError(f"'{index}' needs '{file.name}' beside it, which is not there")
            data[file] = file.read_bytes()
        tensors[name] = _tensor(name, entry, data[file], file)
    return tensors


def _tensor(name: str, entry: dict[int, list], data: bytes, file: Path) -> np.ndarray:
    """Cut one tensor out of a data file; `entry` is a BundleEntryProto."""
    kind = NUMBER_TYPES.get(entry.get(1, [0])[0])
    if kind is None or 7 in entry:
        what = 'in slices' if 7 in entry else f'as type {entry.get(1, [0])[0]}'
        raise WeightsError(
            f"'{file}' stores {name} {what}, which is not read; save the checkpoint again with "
            'whole float32 variables'
        )
    shape = [_message(dim).get(1, [0])[0] for dim in _message(entry.get(2, [b''])[0]).get(2, [])]
    begin, size = (entry.get(field, [0])[0] for field in (4, 5))
    raw = data[begin : begin + size]
    checksum = struct.unpack('<I', entry.get(6, [b''])[0])[0]
    expected = math.prod(shape) * np.dtype(kind).itemsize
    if not len(raw) == size == expected or masked_crc32c(raw) != checksum:
        raise _damaged(file)
    return np.frombuffer(raw, kind).reshape(shape).copy()


def _records(index: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table file, in order."""
    table = index.read_bytes()
    footer = table[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE or struct.unpack('<Q', footer[-8:])[0] != MAGIC:
        raise _damaged(index)
    _, at = _handle(footer, 0)  # of the block of meta data
    (begin, size), _ = _handle(footer, at)
    for _, handle in _block(table, begin, size, index):
        yield from _block(table, *_handle(handle, 0)[0], index)


def _block(table: bytes, begin: int, size: int, index: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of one block, where a key shares the start of the one before."""
    block, trailer = table[begin : begin + size], table[begin + size :][:TRAILER_SIZE]
    compression, checksum = struct.unpack('<BI', trailer)
    if masked_crc32c(block + trailer[:1]) != checksum:
        raise _damaged(index)
    if compression:
        raise WeightsError(
            f"'{index}' is compressed (kind {compression}), which is not read; save the "
            'checkpoint again with a release of TensorFlow from 1.2 on'
        )
    restarts = struct.unpack('<I', block[-4:])[0]
    end = len(block) - 4 * (restarts + 1)
    key, at = b'', 0
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Read where a block begins and how long it is; returns that and the next position."""
    begin, at = _varint(data, at)
    size, at = _varint(data, at)
    return (begin, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; returns it and the next position."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift >= LONGEST_NUMBER:
            raise ValueError(f'a number of more than {LONGEST_NUMBER} bits')


def _message(data: bytes) -> dict[int, list]:
    """Read a protocol-buffer message as {field number: values}: numbers, or bytes."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire, value = tag & 7, None
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = data[at : at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


@cache
def _crc_table() -> list[int]:
    """Return what each byte does to a CRC-32C (Castagnoli, reflected polynomial)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of the data as these files store it: rotated and shifted."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
