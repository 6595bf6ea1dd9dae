"""config/kpfeat.yaml and the dataclasses say the same."""

from dataclasses import fields
from pathlib import Path

from kpfeat_ros.parameter_file import node_classes, parameter_file
import pytest

FILE = Path(__file__).resolve().parents[2] / 'config/kpfeat.yaml'


def read() -> dict[str, dict]:
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    content = yaml.safe_load(FILE.read_text())
    return {key.removeprefix('/**/'): value['ros__parameters'] for key, value in content.items()}


def test_file_is_what_the_generator_writes() -> None:
    assert FILE.read_text() == parameter_file(), (
        'python -m kpfeat_ros.parameter_file > config/kpfeat.yaml'
    )


def test_file_holds_only_names_and_defaults_of_the_dataclasses() -> None:
    classes = node_classes()
    for node, parameters in read().items():
        kind = node.removeprefix('stereo_')
        defaults = {field.name: field.default for cls in classes[kind] for field in fields(cls)}
        if kind == node:
            assert parameters.items() <= defaults.items()
        assert parameters.keys() <= defaults.keys()


def test_options_in_which_models_differ_are_not_set_for_all_models() -> None:
    assert 'detection_threshold' not in read()['extractor']
    assert '# detection_threshold' in FILE.read_text()


def test_nodes_read_the_file_whatever_their_namespace(ros, tmp_path) -> None:
    from kpfeat_ros.matcher_node import MatcherNode

    text = FILE.read_text()
    changed = tmp_path / 'changed.yaml'
    changed.write_text(text.replace('min_similarity: -1.0', 'min_similarity: 0.25'))
    for namespace in ('/', '/robot/front'):
        node = ros.start(MatcherNode, '-r', f'__ns:={namespace}', '--params-file', str(changed))
        assert node.matcher.config.min_similarity == 0.25
