"""The layouts for viewers show what the nodes publish, each topic by its name."""

from collections.abc import Iterator
import json
from typing import Any

import pytest
import yaml

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_ros.overlay_node import OverlayNode

PICTURES = {'/image_keypoints', '/image_tracks', '/image_matches'}
FORMS = {'/keypoint_cloud': 'PointCloud2', '/keypoint_markers': 'MarkerArray'}


def panels(layout: Any) -> Iterator[str]:
    """Yield the names of the panels in a layout of Foxglove."""
    if isinstance(layout, str):
        yield layout
    else:
        yield from panels(layout['first'])
        yield from panels(layout['second'])


@pytest.fixture
def foxglove(repository) -> dict[str, Any]:
    return json.loads((repository / 'foxglove/kpfeat.json').read_text())


def test_rviz_shows_every_picture_and_the_points(repository) -> None:
    config = yaml.safe_load((repository / 'rviz/kpfeat.rviz').read_text())
    displays = config['Visualization Manager']['Displays']
    shown = {display['Topic']['Value']: display['Class'] for display in displays}
    kinds = dict.fromkeys(PICTURES, 'Image') | FORMS
    assert shown == {topic: f'rviz_default_plugins/{kind}' for topic, kind in kinds.items()}


def test_foxglove_shows_every_picture_and_the_points(foxglove) -> None:
    configs = foxglove['configById'].values()
    images = {config['imageMode']['imageTopic'] for config in configs if 'imageMode' in config}
    assert images == {f'{topic}/compressed' for topic in PICTURES} | {'/camera/image_raw'}
    points = {topic for config in configs for topic in config.get('topics', ())}
    assert points == set(FORMS)


def test_the_panels_of_foxglove_are_those_that_are_configured(foxglove) -> None:
    tabs = foxglove['configById']['Tab!pictures']['tabs']
    inside = [panel for tab in tabs for panel in panels(tab['layout'])]
    shown = [*panels(foxglove['layout']), *inside]
    assert sorted(shown) == sorted(foxglove['configById'])


def test_both_layouts_open_one_picture_because_each_costs_work(repository, foxglove) -> None:
    config = yaml.safe_load((repository / 'rviz/kpfeat.rviz').read_text())
    displays = config['Visualization Manager']['Displays']
    opened = {each['Topic']['Value'] for each in displays if each['Enabled']}
    assert opened & PICTURES == {'/image_matches'}
    configs, pictures = foxglove['configById'], foxglove['configById']['Tab!pictures']
    visible = [*panels(foxglove['layout']), pictures['tabs'][pictures['activeTabIdx']]['layout']]
    modes = [configs[name].get('imageMode', {}).get('imageTopic') for name in visible]
    assert [topic for topic in modes if topic] == ['/image_matches/compressed']


def test_the_overlay_publishes_what_the_layouts_show(ros) -> None:
    ros.start(OverlayNode)
    shown = [*PICTURES, *(f'{topic}/compressed' for topic in PICTURES), *FORMS]
    for topic in shown:
        ros.until(lambda topic=topic: ros.probe.count_publishers(topic), topic)


@pytest.mark.parametrize('folder', ['rviz', 'foxglove'])
def test_layouts_are_installed(repository, folder) -> None:
    (line,) = [
        line
        for line in (repository / 'CMakeLists.txt').read_text().splitlines()
        if line.startswith('foreach(folder ')
    ]
    assert folder in line.rstrip(')').split()
