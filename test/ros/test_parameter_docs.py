"""config/kpfeat.yaml, docs/ros.md and the code agree."""

import importlib.util
from pathlib import Path
import re

from kpfeat_core.errors import DataError
from kpfeat_core.registry import extractor_config_class, extractor_names
from kpfeat_ros import bringup
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE, PAGE = ROOT / 'config/kpfeat.yaml', ROOT / 'docs/ros.md'


@pytest.fixture(scope='module')
def docs():
    """Return the generator as a module."""
    path = ROOT / 'scripts/parameter_docs.py'
    spec = importlib.util.spec_from_file_location('parameter_docs', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page() -> str:
    return PAGE.read_text(encoding='utf-8')


def read_file() -> dict[str, dict]:
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    content = yaml.safe_load(FILE.read_text())
    return {key.removeprefix('/**/'): value['ros__parameters'] for key, value in content.items()}


def test_both_are_as_the_generator_writes_them(docs) -> None:
    assert docs.main(['--check']) == 0, 'run python scripts/parameter_docs.py'


def test_a_difference_is_told_and_mended(docs, tmp_path, monkeypatch, capsys) -> None:
    changed = tmp_path / 'kpfeat.yaml'
    changed.write_text('old')
    monkeypatch.setattr(docs, 'FILE', changed)
    assert docs.main(['--check']) == 1
    assert f'{changed} is not what' in capsys.readouterr().err
    assert docs.main([]) == docs.main(['--check']) == 0


def test_file_holds_only_names_and_defaults_of_the_dataclasses(docs) -> None:
    for node, parameters in read_file().items():
        kind = node.removeprefix('stereo_')
        options = docs.options_of(docs.node_classes()[kind])
        defaults = {option.name: option.default for option in options}
        assert len(defaults) == len(options), 'options of one node have different names'
        if kind == node:
            assert parameters.items() <= defaults.items()
        assert parameters.keys() <= defaults.keys()


def test_options_in_which_models_differ_are_not_set_for_all_models() -> None:
    assert 'detection_threshold' not in read_file()['extractor']
    assert '# detection_threshold' in FILE.read_text()


def test_nodes_read_the_file_whatever_their_namespace(ros, tmp_path) -> None:
    from kpfeat_ros.matcher_node import MatcherNode

    text = FILE.read_text()
    changed = tmp_path / 'changed.yaml'
    changed.write_text(text.replace('min_similarity: -1.0', 'min_similarity: 0.25'))
    for namespace in ('/', '/robot/front'):
        node = ros.start(MatcherNode, '-r', f'__ns:={namespace}', '--params-file', str(changed))
        assert node.matcher.config.min_similarity == 0.25


def test_each_model_has_each_of_its_options_in_one_row(docs) -> None:
    rows = docs.models_by_option()
    for model in extractor_names():
        for option in docs.options_of([extractor_config_class(model)]):
            assert [row for row, models in rows[option.name].items() if model in models] == [
                option
            ]


def test_page_without_markers_is_refused(docs) -> None:
    with pytest.raises(DataError, match='add both'):
        docs.replace_tables(f'{docs.END} before {docs.BEGIN}')


def test_page_has_every_parameter_that_the_nodes_declare(ros, docs) -> None:
    from kpfeat_ros.camera_node import CameraNode
    from kpfeat_ros.extractor_node import ExtractorNode
    from kpfeat_ros.matcher_node import MatcherNode
    from kpfeat_ros.overlay_node import OverlayNode

    classes = (CameraNode, MatcherNode, OverlayNode, ExtractorNode)
    nodes = [ros.start(cls, autostart='false') for cls in classes]
    declared = {name for node in nodes for name in node.get_parameters_by_prefix('')}
    foreign = {name for name in declared if name.startswith(('qos_overrides.', 'use_sim_time'))}
    table = page().partition(docs.BEGIN)[2].partition(docs.END)[0]
    rows = set(re.findall(r'^\| `(\w+)` \|', table, re.M))
    assert declared - foreign - {'start_type_description_service'} <= rows


def test_page_has_every_field_of_the_messages() -> None:
    for path in sorted((ROOT / 'msg').glob('*.msg')):
        for line in path.read_text().splitlines():
            words = line.partition('#')[0].split()
            if words:
                name = words[1].partition('=')[0]
                assert re.search(rf'\b{name}\b', page()), f'{name} of {path.name}'


def launch_names() -> set[str]:
    return {argument.name for argument in bringup.launch_arguments()} | {'left', 'right'}


def test_launch_arguments_of_the_page_exist() -> None:
    text = page().replace('\\\n', ' ')
    commands = re.findall(r'^ +ros2 launch kpfeat (.*)$', text, re.M)
    used = {name for command in commands for name in re.findall(r'(\w+):=', command)}
    assert used and used <= launch_names()


@pytest.mark.parametrize('name', ['README.md', 'docs/ros.md'])
def test_words_written_as_launch_arguments_are_some(name) -> None:
    text = (ROOT / name).read_text(encoding='utf-8')
    prose = re.sub('^ .*', '', text, flags=re.M)  # without commands, some of other packages
    assert set(re.findall(r'(?<!-p )(?<!-r )\b(\w+):=', prose)) <= launch_names()
