"""Parameters of real nodes, over their services as `ros2 param` uses them."""

from dataclasses import fields

from kpfeat_core.config import MatcherConfig, ViewConfig
from kpfeat_core.errors import ConfigError
import pytest

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.options import ExtractorNodeOptions, MatcherNodeOptions, ModelOptions
from kpfeat_ros.parameters import NodeParameters
from rcl_interfaces.srv import DescribeParameters, SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter

LONG = 300 * 'x'  # more than a file system allows


@pytest.fixture
def extractor(ros):
    return ros.start(ExtractorNode)


def set_values(ros, node: str, atomically: bool = False, **values):
    """Set parameters over the service; gives the results."""
    parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
    if atomically:
        name = f'/{node}/set_parameters_atomically'
        return ros.call(SetParametersAtomically, name, parameters=parameters).result
    results = ros.call(SetParameters, f'/{node}/set_parameters', parameters=parameters).results
    return results[0] if len(results) == 1 else results


def describe(ros, node: str, *names: str):
    name = f'/{node}/describe_parameters'
    return ros.call(DescribeParameters, name, names=list(names)).descriptors


def test_every_option_is_a_described_parameter(ros, extractor) -> None:
    names = {
        f.name: f
        for c in (ModelOptions, ExtractorNodeOptions, ViewConfig, type(extractor.extractor.config))
        for f in fields(c)
    }
    for descriptor in describe(ros, 'extractor', *names):
        record = names[descriptor.name].metadata
        assert descriptor.description.startswith(record['help'])
        later = 'read-only while the node is configured' in descriptor.description
        assert later != record['live']


def test_ranges_and_choices_are_told_over_the_service(ros, extractor) -> None:
    nms, threshold, transport, model = describe(
        ros, 'extractor', 'nms_radius', 'detection_threshold', 'image_transport', 'model'
    )
    assert (nms.integer_range[0].from_value, nms.integer_range[0].to_value) == (0, 64)
    assert threshold.floating_point_range[0].to_value == 1.0
    assert transport.additional_constraints == 'one of: raw, compressed'
    assert 'alike-t' in model.additional_constraints


def test_live_parameter_changes_the_extractor_at_once(ros, extractor) -> None:
    network = extractor.extractor.parameters
    assert set_values(ros, 'extractor', max_num_keypoints=7).successful
    assert extractor.extractor.config.max_num_keypoints == 7
    assert next(extractor.extractor.parameters()) is next(network())


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('nms_radius', 65, 'out of range'),
        ('max_num_keypoints', -2, 'out of range'),
        ('detection_threshold', 1.5, 'out of range'),
        ('detection_threshold', float('nan'), ''),
        ('descriptor_type', 'float8', 'expected one of float32'),
        ('max_num_keypoints', 'many', ''),
        ('warm_up_size', '96x64', 'read-only'),
        ('image_transport', 'compressed', 'read-only'),
        ('undistort', True, 'read-only'),
        ('model', 'sift', "there is no model 'sift'; expected one of"),
        ('weights', '/no/such/file', '/no/such/file'),
        ('device', 'cuda:9', 'or use device cpu'),
        ('device', 'abacus', 'expected cpu, cuda'),
        ('weights', LONG, LONG),
        ('weights', '~nobody-of-this-name/x', '~nobody-of-this-name/x'),
        ('mask', LONG, LONG),
    ],
)
def test_value_that_is_not_allowed_is_refused_with_a_reason(
    ros, extractor, name, value, reason
) -> None:
    before = extractor.extractor.config, extractor.options, extractor.get_parameter(name).value
    result = set_values(ros, 'extractor', **{name: value})
    assert not result.successful
    assert result.reason
    assert reason in result.reason
    assert before == (
        extractor.extractor.config,
        extractor.options,
        extractor.get_parameter(name).value,
    )


def test_minus_one_means_no_limit(ros, extractor) -> None:
    assert set_values(ros, 'extractor', max_num_keypoints=-1).successful
    assert extractor.extractor.config.max_num_keypoints == -1


def test_changes_made_together_are_made_all_or_none(ros, extractor) -> None:
    before = extractor.extractor.config
    result = set_values(ros, 'extractor', True, nms_radius=3, descriptor_type='float8')
    assert not result.successful
    assert extractor.extractor.config == before
    assert extractor.get_parameter('nms_radius').value == before.nms_radius
    assert set_values(ros, 'extractor', True, nms_radius=3, descriptor_type='int8').successful
    assert extractor.extractor.config.nms_radius == 3
    assert extractor.options.descriptor_type == 'int8'


def test_change_that_cannot_be_applied_leaves_everything_as_it_was(ros) -> None:
    node = ros.add(Node('subject'))
    parameters, applied = NodeParameters(node), []

    def refuse(config) -> None:
        raise ConfigError('the network is away')

    for cls, apply in ((MatcherNodeOptions, applied.append), (MatcherConfig, refuse)):
        parameters.declare(cls)
        parameters.read(cls, apply)
    result = set_values(ros, 'subject', True, mode='reference', mutual=False)
    assert (result.successful, result.reason) == (False, 'the network is away')
    assert [config.mode for config in applied] == ['reference', 'consecutive']
    assert node.get_parameter('mode').value == 'consecutive'


def test_failure_of_our_own_refuses_the_change_and_the_node_goes_on(ros, monkeypatch) -> None:
    node, errors = ros.start(MatcherNode, geometry='none'), ros.logged()
    with monkeypatch.context() as patch:
        patch.setattr('kpfeat_ros.matcher_node.create_matcher', lambda *_, **__: 1 / 0)
        result = set_values(ros, 'matcher', True, mode='reference', geometry='homography')
    assert not result.successful
    assert result.reason == 'ZeroDivisionError: division by zero; the log says where'
    ros.until(lambda: any('create_matcher' in text for text in errors), 'the log')
    assert (node.options.mode, node.matcher.config.geometry) == ('consecutive', 'none')
    assert node.get_parameter('mode').value == 'consecutive'
    assert set_values(ros, 'matcher', mode='reference').successful


def test_matcher_follows_its_parameters(ros) -> None:
    node = ros.start(MatcherNode, geometry='none')
    assert node.matcher.config.geometry == 'none'
    assert set_values(ros, 'matcher', geometry='fundamental').successful
    assert node.matcher.config.geometry == 'fundamental'
    refused = set_values(ros, 'matcher', geometry='cube')
    assert "geometry is 'cube', expected one of none, homography" in refused.reason


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('nms_radius', '65', 'out of range'),
        ('detection_threshold', '0', 'write 1.0, not 1'),
        ('descriptor_type', 'float8', 'expected one of float32'),
    ],
)
def test_value_that_is_not_allowed_at_start_is_one_sentence(ros, name, value, reason) -> None:
    with pytest.raises(ConfigError, match=reason):
        ros.start(ExtractorNode, **{name: value})


def test_no_keypoints_at_all_are_refused_with_what_to_write(ros) -> None:
    from kpfeat_ros.extractor_node import ExtractorNode

    node = ros.start(ExtractorNode)
    result = ros.set(max_num_keypoints=0)
    assert not result.successful and 'is 0, expected -1, or at least 1' in result.reason
    assert node.extractor.config.max_num_keypoints == 1024
