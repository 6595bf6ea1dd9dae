"""An evaluation of a whole set: each image once, with one worker or several."""

from dataclasses import replace

from kpfeat_core.errors import DataError
from kpfeat_core.evaluation import (
    evaluate,
    OpencvExtractor,
    planar_pairs,
    PROTOCOLS,
    Results,
)
from kpfeat_core.evaluation.run import _chunks
from kpfeat_core.evaluation.sources import available_baselines, Source
from kpfeat_core.evaluation.tables import only_group
import numpy as np
from oracle import blank_pair, GridExtractor, POINTS
import pytest


def test_sequences_that_a_protocol_leaves_out_do_not_count(sequences) -> None:
    (sequences / 'i_same').rename(sequences / 'v_talent')
    results = evaluate(OpencvExtractor('orb'), planar_pairs(sequences), PROTOCOLS['d2net'])
    assert results.groups == ['v_shift']


def test_each_file_is_extracted_once_a_sequence(sequences) -> None:
    counter = GridExtractor({440: POINTS})
    results = evaluate(counter, planar_pairs(sequences))
    assert len(results.pairs) == 4
    assert counter.calls == 6 + 1  # and once to warm up
    assert counter.limit == 1024


@pytest.mark.parametrize('name', available_baselines())
def test_opencv_features_match_a_shifted_picture(sequences, name) -> None:
    results = evaluate(OpencvExtractor(name), planar_pairs(sequences))
    assert only_group(results, 'v_shift').mean('MMA@3') > 0.8
    assert only_group(results, 'v_shift').mean('HA@3') == 1
    assert only_group(results, 'i_same').mean('MMA@1') == 1
    low, high = results.interval('MMA@3')
    assert low <= results.mean('MMA@3') <= high


def without_times(results):
    return [(p.name, {k: v for k, v in p.values.items() if k != 'ms'}) for p in results.pairs]


def test_several_workers_measure_what_one_does(sequences, tmp_path) -> None:
    source, pairs = Source('sift', 'sift'), planar_pairs(sequences)
    alone = evaluate(source, pairs)
    shared = evaluate(source, pairs, workers=2, cache=tmp_path / 'cache')
    assert without_times(alone) == without_times(shared)


def test_workers_share_the_pairs_of_one_large_group() -> None:
    pairs = [replace(blank_pair(np.eye(3)), name=str(k)) for k in range(25)]
    pairs += [replace(pairs[0], group='other')]
    assert _chunks(pairs) == [range(10), range(10, 20), range(20, 25), range(25, 26)]


def test_a_set_of_which_no_pair_counts_is_refused(sequences) -> None:
    with pytest.raises(DataError, match="no pairs that count under the protocol 'default'"):
        evaluate(OpencvExtractor('orb'), [])


def test_what_a_pair_shows_is_kept_with_the_results() -> None:
    pairs = [replace(blank_pair(np.eye(3)), origin=origin) for origin in 'aab']
    results = evaluate(GridExtractor({100: POINTS, 101: POINTS}), pairs)
    assert results.origins.tolist() == ['a', 'a', 'b']
    again = Results.from_dict(results.to_dict())
    assert again.origins.tolist() == ['a', 'a', 'b']
    plain = evaluate(GridExtractor({100: POINTS, 101: POINTS}), [blank_pair(np.eye(3))])
    assert Results.from_dict(plain.to_dict()).origins.tolist() == ['group']
