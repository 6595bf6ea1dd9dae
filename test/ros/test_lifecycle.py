"""The life of the nodes as `ros2 lifecycle` and lifecycle managers steer it, over real DDS."""

from kpfeat_core.errors import ConfigError
from kpfeat_core.registry import build_extractor
from kpfeat_core.weights.files import save_weights
import pytest
from steered import diagnostics, EXTRACTOR, topics_of

pytest.importorskip('kpfeat.msg', reason='no ROS 2 or no messages: `make test` brings them')

from kpfeat.msg import Features
from kpfeat_core.models.base import Extractor
from kpfeat_ros.camera_node import CameraNode
from kpfeat_ros.extractor_node import ExtractorNode
from kpfeat_ros.lifecycle import PRIVATE, private
from kpfeat_ros.matcher_node import MatcherNode
from kpfeat_ros.overlay_node import OverlayNode


def test_node_starts_by_itself_unless_told_otherwise(ros, steered) -> None:
    assert steered().state == 'unconfigured'
    node = ros.start(ExtractorNode, '-r', '__node:=other')
    assert node.state == 'active'


def test_rclpy_has_every_private_member_that_we_use(ros) -> None:
    node = ros.start(MatcherNode, autostart='false')
    for name in PRIVATE:
        private(node, name)
    with pytest.raises(ConfigError, match='has no MatcherNode._no_such_member, which kpfeat uses'):
        private(node, '_no_such_member')


def test_every_node_is_managed(ros) -> None:
    for cls in (CameraNode, MatcherNode, OverlayNode):
        node = ros.start(cls, autostart='false')
        for step in ('configure', 'activate', 'deactivate', 'cleanup', 'configure', 'shutdown'):
            assert getattr(node, f'trigger_{step}')().name == 'SUCCESS', (cls, step)
        assert node.state == 'finalized'
        assert not node._endpoints and not node._workers


def test_life_from_configure_to_cleanup_is_published_as_events(ros, steered) -> None:
    subject = steered()
    assert subject.change('configure', 'activate', 'deactivate', 'cleanup')
    ros.until(lambda: len(subject.events) == 8, 'events')
    assert [event.goal_state.label for event in subject.events] == [
        'configuring',
        'inactive',
        'activating',
        'active',
        'deactivating',
        'inactive',
        'cleaningup',
        'unconfigured',
    ]


def test_topics_are_there_only_while_the_node_is_active(ros, steered, photo) -> None:
    subject = steered()
    ros.spin(0.3)
    assert topics_of(ros) == set()
    subject.change('configure')
    assert topics_of(ros) == set()
    for _ in range(2):
        subject.change('activate')
        features, camera = ros.listen(Features, 'features'), ros.camera()
        ros.until(lambda: topics_of(ros) == {'/image', '/features'}, 'topics')
        ros.until(subject.node.streams[''].wanted, 'a listener')
        camera.publish(ros.image(photo))
        ros.until(lambda: features, 'features')  # noqa: B023
        subject.change('deactivate')
        ros.until(lambda: topics_of(ros) == set(), 'no topics')
        ros.until(lambda: not camera.get_subscription_count(), 'unsubscribing')  # noqa: B023
    subject.change('cleanup')
    assert subject.node.extractor is None


def test_configure_runs_the_network_once_at_the_expected_size(steered, monkeypatch) -> None:
    sizes, extract = [], Extractor.extract

    def noting(self, images, *others, **options):
        sizes.extend(image.shape[:2] for image in images)
        return extract(self, images, *others, **options)

    monkeypatch.setattr(Extractor, 'extract', noting)
    assert steered(warm_up_size='96x64').change('configure')
    assert sizes == [(64, 96)]


def test_model_can_be_another_after_cleanup_and_changed_values_stay(
    ros, steered, tmp_path
) -> None:
    path = tmp_path / 'kp2d.safetensors'
    save_weights(build_extractor('kp2d', version='v0'), path)
    subject = steered(max_num_keypoints=77)
    subject.change('configure')
    assert subject.set(nms_radius=5).successful
    refused = subject.set(warm_up_size='96x64')
    assert not refused.successful
    assert 'read-only' in refused.reason and 'ros2 lifecycle set /extractor' in refused.reason
    subject.change('cleanup')
    assert subject.set(model='kp2d').successful and subject.set(weights=str(path)).successful
    assert subject.change('configure')
    config = subject.node.extractor.config
    assert type(config).__name__ == 'Kp2dConfig'
    assert (config.max_num_keypoints, config.nms_radius) == (77, 5)
    assert not subject.node.has_parameter('upstream_borders')  # an option of alike alone


def test_unknown_parameter_is_a_warning_that_names_the_nearest_one(ros, steered) -> None:
    warnings = ros.logged(level=30)
    subject = steered(nms_radus=3)
    ros.until(lambda: ros.probe.count_publishers('/rosout') > 1, 'the log')
    subject.change('configure')
    text = "no parameter of this node or of alike-t: 'nms_radus' (did you mean 'nms_radius'?)"
    ros.until(lambda: warnings, 'the warning')
    assert text in warnings[0]


def test_autostart_is_read_only_and_must_be_true_or_false(steered) -> None:
    subject = steered()
    assert 'read-only' in subject.set(autostart=True).reason
    with pytest.raises(ConfigError, match='autostart.*expected bool'):
        steered(autostart='perhaps')


@pytest.mark.parametrize('before', [[], ['configure'], ['configure', 'activate']])
def test_shutdown_is_possible_from_every_state_and_frees_everything(ros, steered, before) -> None:
    subject = steered()
    assert not before or subject.change(*before)
    assert subject.change('shutdown')
    assert subject.state == 'finalized'
    assert subject.node.extractor is None
    assert topics_of(ros) == set()


def test_diagnostics_say_that_a_node_is_not_active(ros, steered) -> None:
    subject = steered()
    statuses = diagnostics(ros)
    for words, *steps in (
        ('inactive, not configured', 'configure'),
        ('inactive: `ros2 lifecycle set /extractor activate`', 'activate'),
        ('idle: nobody listens', 'deactivate', 'shutdown'),
        ('inactive, finalized', ''),
    ):
        status = ros.until(lambda: statuses.find(words), words)  # noqa: B023
        assert status.level == b'\x00'
        if steps[0]:
            subject.change(*steps)


def test_destroyed_node_leaves_the_graph_at_once(ros, steered) -> None:
    subject = steered()
    subject.change('configure', 'activate')
    ros.until(lambda: 'extractor' in ros.probe.get_node_names(), 'the node')
    ros.executor.remove_node(subject.node)
    subject.node.destroy_node()
    subject.node.destroy_node()  # the second time does nothing
    ros.until(lambda: 'extractor' not in ros.probe.get_node_names(), 'its leave')
    assert not ros.probe.count_publishers(f'{EXTRACTOR}/transition_event')
