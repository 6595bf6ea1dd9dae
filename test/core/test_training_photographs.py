"""Which photographs a run trains on, which are held out, and how often each kind is drawn."""

import hashlib

import cv2
from kpfeat_core.data.image_folder import find_row, read_kinds, split_images
from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.evaluation.synthetic import find_photographs
from kpfeat_core.io import find_images
from kpfeat_core.training import TrainConfig
from kpfeat_core.training.recipe import load_photographs
import numpy as np
import pytest

NAMES = ('a.png', 'b.png', 'more/a.png', 'more/c.png')


@pytest.fixture
def folder(tmp_path):
    """Four small pictures, two of one name in different folders."""
    for name in NAMES:
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((40, 40), np.uint8))
    return tmp_path / 'images'


def load(folder, **options):
    return load_photographs(folder, TrainConfig(bank_side=64, **options))


def test_rows_of_a_manifest_name_files_with_their_folders_or_without(folder) -> None:
    rows = 'file,kind\na.png,photo\nmore/a.png,texture\nmore/c.png,photo\n'
    (folder / 'manifest.csv').write_text(rows)
    kinds = read_kinds(folder)
    found = find_images(folder)
    assert [find_row(path, kinds) for path in found] == ['photo', None, 'texture', 'photo']
    assert find_photographs(folder) == [found[0], found[3]]
    training, validation = load(folder, kind_weights='photo=3,texture=0')
    drawn = {
        (name, float(weight) > 0)
        for bank in (training, validation)
        for name, weight in zip(bank.names, bank.probabilities, strict=True)
    }
    assert drawn == {('a.png', True), ('a.png', False), ('b.png', True), ('c.png', True)}


def test_weights_of_kinds_that_no_photograph_has_are_refused(folder) -> None:
    with pytest.raises(ConfigError, match=r"'photo'.*there is no manifest\.csv"):
        load(folder, kind_weights='photo=2')
    (folder.parent / 'manifest.csv').write_text('file,kind\na.png,photo\nc.png,texture\n')
    load(folder, kind_weights='photo=2,texture=1')
    with pytest.raises(ConfigError, match="'photograph'.*has photo, texture"):
        load(folder, kind_weights='photograph=2,texture=1')


def test_one_photograph_is_held_out_at_least_the_one_of_the_lowest_hash(tmp_path) -> None:
    paths = [tmp_path / f'{name}.jpg' for name in ('one', 'two', 'three', 'two_q1', 'four')]
    assert split_images(paths, 1e-6) == split_images(paths, 0.0)
    training, validation = split_images(paths, 0.0)
    groups = {path.stem.partition('_')[0] for path in paths}
    lowest = min(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert [path.stem.partition('_')[0] for path in validation] == [lowest] * len(validation)
    assert len(training) + len(validation) == len(paths) and 1 <= len(validation) <= 2
    assert (len(validation) == 2) == (lowest == 'two')


def test_a_folder_of_one_photograph_is_refused_with_what_to_change(folder) -> None:
    with pytest.raises(DataError, match=r'0 images for training.*--set validation_share='):
        load(folder / 'more', max_images=0)
