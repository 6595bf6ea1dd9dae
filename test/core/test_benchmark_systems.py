"""The systems that `kpfeat bench` compares: which, with which weights and options."""

from kpfeat_core.benchmarking import systems
from kpfeat_core.benchmarking.pictures import load_pictures
from kpfeat_core.evaluation.sources import available_baselines
from kpfeat_core.registry import build_extractor, extractor_names
from kpfeat_core.weights.files import save_weights
from made_bench import spec
import torch


def test_every_registered_extractor_is_measured_where_none_is_named():
    specs = systems.choose_systems([], 10)
    assert [s.name for s in specs] == [*extractor_names(), *available_baselines()]


def test_a_weight_file_is_named_and_a_missing_companion_makes_random_ones(tmp_path, monkeypatch):
    save_weights(build_extractor('alike-t'), tmp_path / 'mine.safetensors')
    words = [f'alike-t={tmp_path}/mine.safetensors']
    (chosen,) = systems.choose_systems(['alike-t'], 10, words)
    assert systems.build_system(chosen).weights == 'mine.safetensors'
    submodule = (torch.nn.Conv2d(1, 1, 1), '')
    kind = type(build_extractor('alike-t'))
    monkeypatch.setattr(kind, 'submodules', lambda self: {'describer': submodule})
    system = systems.build_system(spec('alike-t'))
    assert (system.weights, system.note) == ('random', 'no weights for describer')


def test_random_weights_are_those_of_the_first_seed_that_finds_all_or_the_best(monkeypatch):
    counts = [3, 9, 5, 50, 60, 1, 2, 4]
    tried = []

    class Counted(systems.System):
        def run(self, inputs):
            tried.append(self.spec.seed)

        def mean_keypoints(self, result):
            return counts[self.spec.seed]

    def build(spec):
        return Counted(spec, systems.OpencvExtractor('orb'), 'random')

    monkeypatch.setattr(systems, 'build_system', build)
    picture = load_pictures('', (64, 64))[0]
    assert systems.find_lively_weights(build(spec('alike-s')), picture).spec.seed == 3
    assert tried == [0, 1, 2, 3]
    counts[3] = 49
    assert systems.find_lively_weights(build(spec('alike-s')), picture).spec.seed == 4
    counts[4] = 8
    assert systems.find_lively_weights(build(spec('alike-s')), picture).spec.seed == 3


def test_an_option_goes_to_the_systems_that_have_it():
    words = ['upstream_borders=true', 'nms_radius=3']
    first, second = systems.choose_systems(['alike-t', 'orb'], 10, settings=words)
    assert first.options == {
        'max_num_keypoints': 10, 'upstream_borders': True, 'nms_radius': 3,
    }  # fmt: skip
    assert second.options == {'max_num_keypoints': 10}
