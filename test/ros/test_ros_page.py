"""docs/ros.md and the code say the same."""

from dataclasses import fields
import re

from kpfeat_core.errors import DataError
from kpfeat_core.registry import extractor_config_class, extractor_names
from kpfeat_ros import bringup
from kpfeat_ros.parameter_table import BEGIN, END, models_by_option, PAGE, replace_tables
import pytest


def page() -> str:
    return PAGE.read_text(encoding='utf-8')


def test_tables_are_what_the_generator_writes() -> None:
    assert page() == replace_tables(page()), 'python -m kpfeat_ros.parameter_table'


def test_each_model_has_each_of_its_options_in_one_row() -> None:
    options = models_by_option()
    for model in extractor_names():
        for field in fields(extractor_config_class(model)):
            assert [f for f, models in options[field.name].items() if model in models] == [field]


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match='add both'):
        replace_tables(f'{END} before {BEGIN}')


def test_page_has_every_parameter_that_the_nodes_declare(ros, weights_file) -> None:
    from kpfeat_ros.camera_node import CameraNode
    from kpfeat_ros.extractor_node import ExtractorNode
    from kpfeat_ros.matcher_node import MatcherNode
    from kpfeat_ros.overlay_node import OverlayNode

    nodes = [ros.start(cls) for cls in (CameraNode, MatcherNode, OverlayNode)]
    nodes.append(ros.start(ExtractorNode, weights=weights_file))
    declared = {name for node in nodes for name in node._parameters}
    foreign = {name for name in declared if name.startswith(('qos_overrides.', 'use_sim_time'))}
    rows = set(re.findall(r'^\| `(\w+)` \|', page().partition(BEGIN)[2].partition(END)[0], re.M))
    assert declared - foreign - {'start_type_description_service'} <= rows


def test_page_has_every_field_of_the_messages(repository) -> None:
    for path in sorted((repository / 'msg').glob('*.msg')):
        for line in path.read_text().splitlines():
            words = line.partition('#')[0].split()
            if words:
                name = words[1].partition('=')[0]
                assert re.search(rf'\b{name}\b', page()), f'{name} of {path.name}'


def test_launch_arguments_of_the_page_exist() -> None:
    text = page().replace('\\\n', ' ')
    commands = re.findall(r'^ +ros2 launch kpfeat (.*)$', text, re.M)
    used = {name for command in commands for name in re.findall(r'(\w+):=', command)}
    assert used <= launch_names()


def launch_names() -> set[str]:
    return {name for name, _, _ in bringup.launch_arguments()} | {'left', 'right'}


@pytest.mark.parametrize('name', ['README.md', 'docs/ros.md'])
def test_what_is_written_as_a_launch_argument_is_one(repository, name) -> None:
    text = (repository / name).read_text(encoding='utf-8')
    prose = re.sub('^ .*', '', text, flags=re.M)  # without commands, some of other packages
    assert set(re.findall(r'(?<!-p )(?<!-r )\b(\w+):=', prose)) <= launch_names()
