"""The recorded accuracies are those of today's code, and in the order that was published."""

import json
from pathlib import Path

from kpfeat_core.evaluation import evaluate, planar_pairs, PROTOCOLS, Source
from kpfeat_core.evaluation.results import compare, read_json
from kpfeat_core.evaluation.sources import parse_source
import pytest

ACCURACY = Path(__file__).resolve().parents[2] / 'benchmarks/results/accuracy'
RECORDED = ACCURACY / 'oxford.json'
OWN = ACCURACY / 'oxford_own_alike_t.json'
SEQUENCE = 'x_ubc_jpeg'  # the one with the smallest images


@pytest.fixture(scope='module')
def recorded():
    return {results.label: results for path in (RECORDED, OWN) for results in read_json(path)}


@pytest.fixture
def sequence(shared):
    folder = shared / 'data/eval/oxford'
    return [pair for pair in planar_pairs(folder) if pair.group == SEQUENCE]


@pytest.mark.parametrize(
    ('label', 'checkpoint'),
    [
        ('alike-t', ''),
        ('published-alike-t', 'weights/alike/alike-t.pth'),
        ('published-alike-n', 'weights/alike/alike-n.pth'),
        ('sift', ''),
    ],
)
def test_recorded_numbers_of_a_sequence_come_out_again(
    recorded, sequence, reference, tmp_path, label, checkpoint
) -> None:
    model = label.removeprefix('published-')
    text = f'{model}:{reference / checkpoint}' if checkpoint else model
    again = evaluate(parse_source(text, 'cpu', tmp_path), sequence)
    before = {pair.name: pair.values for pair in recorded[label].pairs}
    assert len(again.pairs) == 5
    for pair in again.pairs:
        for column, tolerance in (('MMA@3', 0.02), ('repeatability', 0.02), ('AUC@5', 0.05)):
            expected = before[pair.name][column]
            assert pair.values[column] == pytest.approx(expected, abs=tolerance), pair.name


def test_larger_published_networks_match_better_as_in_their_paper(recorded) -> None:
    """On HPatches MMA@3 is .708 for alike-n, .705 for alike-l: less apart than noise is here."""
    sizes = [recorded[f'published-alike-{size}'] for size in 'tsnl']
    tiny, small, normal, large = (results.mean('MMA@3') for results in sizes)
    assert tiny < small < large and tiny < normal
    assert abs(normal - large) < 0.03
    assert not compare(sizes[3], sizes[0], 'MMA@3').is_noise
    assert 0.5 < normal < 0.75  # these 8 sequences are harder than the average of HPatches


def test_keynet_repeats_more_than_the_networks_that_were_trained_to_match(recorded) -> None:
    """As its paper says of SuperPoint and LF-Net."""
    keynet = recorded['published-keynet']
    for size in 'tsnl':
        gain = compare(keynet, recorded[f'published-alike-{size}'], 'repeatability')
        assert gain.low > 0


def test_recorded_results_say_where_they_come_from(recorded) -> None:
    values = json.loads(RECORDED.read_text())['results']
    assert {len(result['pairs']) for result in values} == {40}
    for results in recorded.values():
        assert results.protocol == PROTOCOLS['default']
        assert {'commit', 'command', 'machine', 'opencv'} <= results.about.keys()
        assert '/' not in results.about['command']


def test_a_source_tells_weights_by_their_hash(recorded) -> None:
    ours = recorded['alike-t'].about['weights']['alike-t']
    assert ours == Source('x', 'alike-t').about()['weights']['alike-t']
