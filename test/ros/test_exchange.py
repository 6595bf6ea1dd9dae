"""Features in memory: the same as through a message, bounded, and gone with their nodes."""

import gc
import threading
from types import SimpleNamespace
from typing import Any
import weakref

from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features, message_to_features
from kpfeat_ros.exchange import current_exchange, Exchange, using
from kpfeat_ros.frames import message_to_frame, StampedFeatures
import pytest
import torch

TOPIC = '/robot/features'


def header(sec: int, frame_id: str = 'camera') -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=5), frame_id=frame_id)


def features(seed: int = 0, count: int = 20) -> Features:
    torch.manual_seed(seed)
    return Features(
        keypoints=torch.rand(1, count, 2) * 100,
        keypoint_scores=torch.rand(1, count),
        descriptors=torch.nn.functional.normalize(torch.randn(1, count, 8), dim=-1),
        mask=torch.ones(1, count, dtype=torch.bool),
        image_size=torch.tensor([[128.0, 96.0]]),
    )


def frame(sec: int, given: Features, model: str = 'alike-t') -> StampedFeatures:
    return StampedFeatures(header(sec), model, given)


def message(sec: int, given: Features, model: str = 'alike-t', **more: Any) -> Any:
    return fill_features(SimpleNamespace(), given, header(sec, **more), model)


def tensors(given: Features) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(given).items() if value is not None}


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def told() -> list[StampedFeatures]:
    """Return the frames that an inbox was called back with."""
    return []


def test_features_that_arrive_equal_those_of_the_message_and_share_their_memory(
    exchange, told
) -> None:
    inbox = exchange.inbox(TOPIC, told.append)
    given = features()
    assert exchange.outlet(TOPIC).offer(frame(1, given)) == 1
    unpacked = message_to_frame(message(1, given))
    assert (told[0].model, told[0].header) == (unpacked.model, unpacked.header)
    theirs = tensors(unpacked.features)
    assert tensors(told[0].features).keys() == theirs.keys()
    for name, value in tensors(told[0].features).items():
        assert torch.equal(value, theirs[name]), name
    assert told[0].features.descriptors.data_ptr() == given.descriptors.data_ptr()
    assert inbox.knows(message(1, given))


def test_padding_is_not_handed_over(exchange, told) -> None:
    inbox = exchange.inbox(TOPIC, told.append)
    padded = Features.cat([features(1, count=7), features(2, count=12)])
    first = Features(**{name: value[:1] for name, value in tensors(padded).items()})
    exchange.outlet(TOPIC).offer(frame(1, first))
    assert told[0].features.mask.shape == (1, 7)
    assert inbox.knows(message(1, first))


def test_every_inbox_of_the_topic_gets_the_frame_once_and_no_other_does(exchange, told) -> None:
    inboxes = [exchange.inbox(TOPIC, told.append), exchange.inbox(TOPIC, told.append)]
    elsewhere = exchange.inbox('/features', told.append)
    given = features()
    assert exchange.outlet(TOPIC).offer(frame(1, given)) == 2
    assert [each.header.stamp.sec for each in told] == [1, 1]
    for inbox in inboxes:
        assert [inbox.knows(message(1, given)) for _ in range(2)] == [True, False]
    assert len(elsewhere) == 0


@pytest.mark.parametrize(
    'other',
    [
        message(2, features()),
        message(1, features(), frame_id='other'),
        message(1, features(), model='alike-n'),
        message(1, features(seed=1)),
        message(1, features(count=19)),
    ],
    ids=['stamp', 'frame', 'model', 'keypoints', 'count'],
)
def test_message_of_another_publisher_is_not_known(exchange, told, other) -> None:
    inbox = exchange.inbox(TOPIC, told.append)
    exchange.outlet(TOPIC).offer(frame(1, features()))
    assert not inbox.knows(other)
    assert len(inbox) == 1


def test_messages_with_one_stamp_for_all_are_known_by_their_features(exchange, told) -> None:
    inbox, outlet = exchange.inbox(TOPIC, told.append), exchange.outlet(TOPIC)
    given = [features(seed) for seed in range(3)]
    for each in given:
        outlet.offer(frame(0, each))
    for left, each in enumerate(reversed(given)):
        assert inbox.knows(message(0, each))
        assert len(inbox) == 2 - left


def test_only_the_newest_frames_are_remembered(exchange) -> None:
    inbox, outlet = exchange.inbox(TOPIC, lambda _: None, kept=3), exchange.outlet(TOPIC)
    given = [features(seed) for seed in range(5)]
    gone = weakref.ref(given[0].descriptors)
    for sec, each in enumerate(given):
        outlet.offer(frame(sec, each))
    known = [inbox.knows(message(sec, each)) for sec, each in enumerate(given)]
    assert known == [False] * 2 + [True] * 3
    del given[:], each
    gc.collect()
    assert gone() is None


def test_nothing_is_kept_where_nobody_listens(exchange, told) -> None:
    outlet = exchange.outlet(TOPIC)
    assert outlet.offer(frame(1, features())) == 0
    assert not exchange.inbox(TOPIC, told.append).knows(message(1, features()))


def test_closed_inbox_frees_its_frames_and_receives_no_more(exchange, told) -> None:
    inbox, outlet = exchange.inbox(TOPIC, told.append), exchange.outlet(TOPIC)
    outlet.offer(frame(1, features()))
    inbox.close()
    inbox.close()
    assert outlet.offer(frame(2, features())) == 0
    assert len(inbox) == 0
    assert len(told) == 1


def test_a_node_that_goes_without_closing_leaves_nothing(exchange) -> None:
    class Node:
        def __init__(self) -> None:
            self.inbox = exchange.inbox(TOPIC, self.on_frame)

        def on_frame(self, given: Any) -> None:
            self.frame = given

    node, given = Node(), features()
    exchange.outlet(TOPIC).offer(frame(1, given))
    assert node.frame.features.descriptors.data_ptr() == given.descriptors.data_ptr()
    gone, tensor = weakref.ref(node), weakref.ref(given.descriptors)
    del node, given
    gc.collect()
    assert gone() is None
    assert tensor() is None
    assert exchange.inboxes(TOPIC) == []


def test_others_listen_if_there_are_more_subscriptions_than_inboxes_that_messages_reach(
    exchange, told
) -> None:
    outlet, elsewhere = exchange.outlet(TOPIC), exchange.outlet(TOPIC)
    assert outlet.others_listen(1)
    inbox = exchange.inbox(TOPIC, told.append)
    given = features()
    assert outlet.offer(frame(1, given)) == 1
    assert outlet.others_listen(1)  # perhaps it is not the inbox's
    assert inbox.knows(message(1, given))
    assert not outlet.others_listen(1)
    assert outlet.others_listen(2)
    assert elsewhere.others_listen(1)
    inbox.close()
    assert outlet.others_listen(1)


def test_closing_waits_for_the_callback_at_work(exchange) -> None:
    events, entered, may_end = [], threading.Event(), threading.Event()

    def on_frame(_: Any) -> None:
        entered.set()
        may_end.wait(30)
        events.append('called')

    inbox, outlet = exchange.inbox(TOPIC, on_frame), exchange.outlet(TOPIC)
    offering = threading.Thread(target=outlet.offer, args=(frame(1, features()),))
    offering.start()
    entered.wait()
    closing = threading.Thread(target=lambda: (inbox.close(), events.append('closed')))
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    may_end.set()
    offering.join()
    closing.join()
    assert events == ['called', 'closed']


def test_unresolved_topics_and_batches_are_refused(exchange, told) -> None:
    with pytest.raises(ConfigError, match='resolve_topic_name'):
        exchange.inbox('features', told.append)
    with pytest.raises(ConfigError, match='resolve_topic_name'):
        exchange.outlet('features')
    with pytest.raises(ShapeError, match='2 images, expected 1'):
        exchange.outlet(TOPIC).offer(frame(1, Features.cat([features(), features()])))


def test_nodes_meet_in_the_exchange_of_the_process_unless_they_are_set_apart() -> None:
    shared = current_exchange()
    with using(Exchange()) as apart:
        assert current_exchange() is apart
        assert apart is not shared
    assert current_exchange() is shared
    seen: list[Exchange] = []
    thread = threading.Thread(target=lambda: seen.append(current_exchange()))
    thread.start()
    thread.join()
    assert seen == [shared]


def test_offers_and_closing_from_several_threads_lose_nothing_that_is_remembered(
    exchange, told
) -> None:
    count, given = 50, features()
    messages = [message(sec, given) for sec in range(count)]
    known: list[int] = []
    inbox = exchange.inbox(TOPIC, told.append, kept=count)
    outlet, stop = exchange.outlet(TOPIC), threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            exchange.inbox(TOPIC, lambda _: None).close()

    def ask() -> None:
        for each in messages:
            while not stop.is_set() and not inbox.knows(each):
                pass
            known.append(each.header.stamp.sec)

    threads = [threading.Thread(target=ask), threading.Thread(target=come_and_go)]
    for thread in threads:
        thread.start()
    for sec in range(count):
        outlet.offer(frame(sec, given))
    threads[0].join(30.0)
    stop.set()
    threads[1].join()
    assert known == [each.header.stamp.sec for each in told] == list(range(count))
    assert len(inbox) == 0


def test_features_in_memory_match_as_those_unpacked_from_messages(exchange, told) -> None:
    from kpfeat_core.factory import create_matcher
    from kpfeat_core.matching import match_pair

    inbox = exchange.inbox(TOPIC, told.append)
    outlet, sent = exchange.outlet(TOPIC), [features(3, count=60), features(3, count=50)]
    for sec, each in enumerate(sent):
        outlet.offer(frame(sec, each))
        assert inbox.knows(message(sec, each))
    matcher = create_matcher()
    ours = match_pair(matcher, *(each.features for each in told))
    theirs = match_pair(matcher, *(message_to_features(message(0, each)) for each in sent))
    for name in ('indices0', 'indices1', 'scores'):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
