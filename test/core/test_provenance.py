"""What results depend on, and where a number came from."""

from dataclasses import replace
import os
from pathlib import Path
import sys

import cv2
from kpfeat_core import provenance
from kpfeat_core.config import ViewConfig
from kpfeat_core.provenance import command, commit, describe_run, digest, imported_files
from kpfeat_core.registry import build_extractor
import numpy as np
import torch


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({'a': 1, 'b': [2, None]}) == digest({'b': [2, None], 'a': 1})
    assert digest({'a': 1}) != digest({'a': 1.5}) and len(digest([])) == 64


def test_a_run_depends_on_weights_options_files_views_and_settings(tmp_path) -> None:
    mask, bag = tmp_path / 'mask.png', tmp_path / 'a.mcap'
    cv2.imwrite(str(mask), np.zeros((4, 4), np.uint8))
    bag.write_bytes(b'one')
    torch.manual_seed(0)
    first = build_extractor('alike-t')
    view = ViewConfig(mask=str(mask))

    def run(extractor=first, view=view, **settings):
        return digest(describe_run(extractor, files=[bag], view=view, **settings))

    runs = [run(), run(stride=2), run(build_extractor('alike-t'))]
    other = build_extractor('alike-t', nms_radius=3)
    other.load_state_dict(first.state_dict())
    runs += [run(other), run(view=replace(view, mask=''))]
    assert run() == runs[0]
    bag.write_bytes(b'other')
    runs.append(run())
    cv2.imwrite(str(mask), np.full((4, 4), 255, np.uint8))  # the same name, another content
    runs.append(run())
    assert len(set(runs)) == len(runs) == 7
    assert describe_run(stride=2) == {'stride': 2}


def test_kept_features_stay_where_only_other_code_changed() -> None:
    """What a model does not import does not count, and all that it imports does."""
    folder = Path(provenance.__file__).parent

    def imported(module):
        return {path.relative_to(folder).as_posix() for path in imported_files(module)}

    alike = imported('models/alike')
    assert {'models/alike.py', 'models/base.py', 'image.py', 'keypoints.py', 'axes.py'} <= alike
    assert not alike & {'video.py', 'html_report.py', 'models/kp2d.py', 'evaluation/sources.py'}
    assert 'patches.py' in imported('models/keynet') - alike
    assert provenance.code_digest('models/alike') != provenance.code_digest('models/kp2d')


def test_pages_need_few_modules_of_ours():
    assert len(imported_files('html_report')) <= 8


def test_results_name_their_commit_and_no_folders(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/kpfeat', 'bench', '--out', '/home/me/a.jsonl'])
    assert command('kpfeat') == 'kpfeat bench --out a.jsonl'
    assert commit() == 'unknown' or len(commit().rstrip('+')) == 12
    assert os.sep not in command('kpfeat')
