"""Write a TensorFlow checkpoint, an index/data pair, for the tests of its reader."""

from pathlib import Path
import struct

from kpfeat_core.weights.checkpoints import MAGIC, masked_crc32c
import numpy as np

TYPES = {'float32': 1, 'int32': 3, 'int64': 9, 'bool': 10}


def varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + varint(value >> 7)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def entry(array: np.ndarray, offset: int, extra: bytes = b'') -> bytes:
    """Return the record of one tensor (BundleEntryProto)."""
    raw = array.tobytes()
    shape = b''.join(chunk(2, number(1, size)) for size in array.shape)
    parts = [number(1, TYPES[str(array.dtype)]), chunk(2, shape), number(4, offset)]
    parts += [number(5, len(raw)), varint(6 << 3 | 5), struct.pack('<I', masked_crc32c(raw))]
    return b''.join(parts) + extra


def block(records: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """Return a block with its trailer; keys share their beginnings, in groups of sixteen."""
    out, restarts, before = b'', [], b''
    for i, (key, value) in enumerate(records):
        shared = 0
        if i % 16 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    restarts = restarts or [0]
    out += struct.pack(f'<{len(restarts) + 1}I', *restarts, len(restarts))
    kind = bytes([compression])
    return out + kind + struct.pack('<I', masked_crc32c(out + kind))


def table(blocks: list[bytes], last_keys: list[bytes]) -> bytes:
    """Return a table file of finished blocks."""
    out, handles = b'', []
    for part in blocks:
        handles.append(varint(len(out)) + varint(len(part) - 5))
        out += part
    meta = varint(len(out)) + varint(len(block([])) - 5)
    out += block([])
    index = block(list(zip(last_keys, handles, strict=True)))
    footer = meta + varint(len(out)) + varint(len(index) - 5)
    return out + index + footer.ljust(40, b'\0') + struct.pack('<Q', MAGIC)


def write_tf_checkpoint(
    prefix: Path, tensors: dict[str, np.ndarray], per_block: int = 20, extra: bytes = b''
) -> Path:
    """Write PREFIX.index and PREFIX.data-00000-of-00001; returns the index file."""
    records, data = [(b'', number(1, 1))], b''
    for name in sorted(tensors, key=str.encode):
        array = np.asarray(tensors[name])
        records.append((name.encode(), entry(array, len(data), extra)))
        data += array.tobytes()
    groups = [records[i : i + per_block] for i in range(0, len(records), per_block)]
    index = prefix.with_name(f'{prefix.name}.index')
    index.write_bytes(table([block(g) for g in groups], [g[-1][0] for g in groups]))
    prefix.with_name(f'{prefix.name}.data-00000-of-00001').write_bytes(data)
    return index
