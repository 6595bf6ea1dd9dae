"""TensorFlow checkpoints are read without TensorFlow, and damage is noticed."""

import struct

from kpfeat_core.errors import WeightsError
from kpfeat_core.weights.checkpoints import find_tf_index, masked_crc32c, read_tf_checkpoint
import numpy as np
import pytest
from tf_table import block, chunk, number, table, varint, write_tf_checkpoint

VALUES = {
    'conv/kernel': np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2),
    'conv/bn/moving_mean': np.array([1.5, -2], np.float32),
    'flag': np.array([True, False]),
    'global_step': np.array(380000, np.int64),
    **{f'many/{i}': np.full(i % 5, i, np.int32) for i in range(50)},
}


@pytest.fixture
def index(tmp_path):
    """Write the values as TensorFlow does; return the index file."""
    return write_tf_checkpoint(tmp_path / 'model.ckpt-7', VALUES)


def data_file(index):
    return index.with_name('model.ckpt-7.data-00000-of-00001')


def test_names_types_shapes_and_values_are_those_written(index):
    found = read_tf_checkpoint(index)
    assert list(found) == sorted(VALUES)
    for name, value in VALUES.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_the_published_keynet_checkpoint_equals_its_copy_in_numpy_form(reference):
    folder = reference / 'weights/keynet_tf'
    found = read_tf_checkpoint(folder / 'model--1651.index')
    copy = np.load(folder / 'keynet_tf_model_1651.npz')
    for name in copy.files:
        np.testing.assert_array_equal(found[name], copy[name], strict=True)


def test_either_file_or_what_both_names_begin_with_names_the_pair(index):
    for path in (index, data_file(index), index.with_suffix('')):
        assert find_tf_index(path) == index
    assert find_tf_index(index.with_name('model.pth')) is None


def test_strings_are_left_out(tmp_path):
    notes = number(1, 7) + chunk(2, b'') + number(5, 3)
    record = block([(b'', number(1, 1)), (b'notes', notes)])
    file = tmp_path / 'm.index'
    file.write_bytes(table([record], [b'notes']))
    assert read_tf_checkpoint(file) == {}


def test_the_checksum_is_crc_32c():
    crc = 0xE3069283  # of these digits, by definition of the polynomial's users
    expected = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(b'123456789') == expected


def test_an_index_that_was_cut_off_and_data_that_were_cut_off_or_changed_are_refused(index):
    whole, data = index.read_bytes(), data_file(index).read_bytes()
    for kept in (0, 20, 47, 48, 200, -1):
        index.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match=r'model\.ckpt-7\.index.*copy it again'):
            read_tf_checkpoint(index)
    index.write_bytes(whole)
    for broken in (data[:-1], b'', data[:50] + bytes([data[50] ^ 1]) + data[51:]):
        data_file(index).write_bytes(broken)
        with pytest.raises(WeightsError, match=r'data-00000-of-00001.*copy it again'):
            read_tf_checkpoint(index)


def test_every_changed_byte_of_an_index_is_an_error_in_words_or_without_effect(tmp_path):
    index = write_tf_checkpoint(tmp_path / 'model.ckpt-7', {'a/b': VALUES['conv/kernel']})
    good = index.read_bytes()
    refused = 0
    for at in range(len(good)):
        index.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        try:
            np.testing.assert_array_equal(read_tf_checkpoint(index)['a/b'], VALUES['conv/kernel'])
        except WeightsError:
            refused += 1
    assert refused > len(good) / 2  # the footer has padding that nobody reads


@pytest.mark.parametrize(
    'fields',
    [
        chunk(2, chunk(2, number(1, 0)) + chunk(2, number(1, 1 << 63))),  # more than can be
        chunk(2, chunk(2, number(1, 1)) * 100 + chunk(2, number(1, 0))),
        number(3, 10**300),  # a file whose name is longer than names can be
    ],
    ids=['size', 'sizes', 'file'],
)
def test_records_of_nonsense_are_refused_though_their_checksums_are_right(tmp_path, fields):
    sound = number(1, 1) + varint(6 << 3 | 5) + struct.pack('<I', masked_crc32c(b''))
    file = tmp_path / 'm.index'
    file.write_bytes(table([block([(b'', number(1, 1)), (b'a', sound + fields)])], [b'a']))
    (tmp_path / 'm.data-00000-of-00001').touch()
    with pytest.raises(WeightsError, match=r'm\.index.*copy it again'):
        read_tf_checkpoint(file)


def test_missing_files_are_named(index, tmp_path):
    data_file(index).unlink()
    with pytest.raises(WeightsError, match=r"needs 'model\.ckpt-7\.data-00000-of-00001'"):
        read_tf_checkpoint(index)
    with pytest.raises(WeightsError, match=r'there is no TensorFlow checkpoint'):
        read_tf_checkpoint(tmp_path / 'other.index')


def test_what_is_not_read_is_said(tmp_path):
    sliced = write_tf_checkpoint(
        tmp_path / 's', {'a': np.ones(2, np.float32)}, extra=chunk(7, b'')
    )
    with pytest.raises(WeightsError, match='stores a in slices'):
        read_tf_checkpoint(sliced)
    file = tmp_path / 'p.index'
    for content, words in (
        (table([block([], compression=1)], [b'']), r'compressed \(kind 1\)'),
        (table([block([(b'', number(1, 1) + number(2, 1))])], [b'']), 'big-endian'),
        (b'<html>' + struct.pack('<20Q', *range(20)), 'another kind'),
    ):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=words):
            read_tf_checkpoint(file)
