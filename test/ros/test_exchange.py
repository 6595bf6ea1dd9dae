"""Features in memory: the same as through a message, bounded, and gone with their nodes."""

import gc
import threading
import time
from types import SimpleNamespace
from typing import Any
import weakref

from kpfeat_core.errors import ConfigError, ShapeError
from kpfeat_core.features import Features
from kpfeat_core.messages.conversions import fill_features, message_to_features
from kpfeat_ros.exchange import current_exchange, Exchange, using
from kpfeat_ros.frames import message_to_frame
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


def message(sec: int, given: Features, model: str = 'alike-t', **more: Any) -> Any:
    return fill_features(SimpleNamespace(), given, header(sec, **more), model)


def tensors(given: Features) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(given).items() if value is not None}


def test_taken_features_equal_those_of_the_message_and_share_their_memory() -> None:
    exchange = Exchange()
    inbox = exchange.listen(TOPIC)
    given = features()
    assert exchange.offer(TOPIC, header(1), given, 'alike-t') == 1
    frame = inbox.take(message(1, given))
    unpacked = message_to_frame(message(1, given))
    assert (frame.model, frame.header) == (unpacked.model, unpacked.header)
    theirs = tensors(unpacked.features)
    assert tensors(frame.features).keys() == theirs.keys()
    for name, value in tensors(frame.features).items():
        assert torch.equal(value, theirs[name]), name
    assert frame.features.descriptors.data_ptr() == given.descriptors.data_ptr()


def test_padding_is_not_handed_over() -> None:
    exchange = Exchange()
    inbox = exchange.listen(TOPIC)
    padded = Features.cat([features(1, count=7), features(2, count=12)])
    first = Features(**{name: value[:1] for name, value in tensors(padded).items()})
    exchange.offer(TOPIC, header(1), first, 'alike-t')
    frame = inbox.take(message(1, first))
    assert frame.features.mask.shape == (1, 7)


def test_every_inbox_of_the_topic_gets_the_frame_once_and_no_other_does() -> None:
    exchange = Exchange()
    inboxes = [exchange.listen(TOPIC), exchange.listen(TOPIC)]
    elsewhere = exchange.listen('/features')
    given = features()
    assert exchange.offer(TOPIC, header(1), given, 'alike-t') == 2
    for inbox in inboxes:
        assert inbox.take(message(1, given)) is not None
        assert inbox.take(message(1, given)) is None
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
def test_message_of_somebody_else_takes_nothing(other) -> None:
    exchange = Exchange()
    inbox = exchange.listen(TOPIC)
    exchange.offer(TOPIC, header(1), features(), 'alike-t')
    assert inbox.take(other) is None
    assert len(inbox) == 1


def test_messages_with_one_stamp_for_all_take_their_own_features() -> None:
    exchange = Exchange()
    inbox = exchange.listen(TOPIC)
    given = [features(seed) for seed in range(3)]
    for each in given:
        exchange.offer(TOPIC, header(0), each, 'alike-t')
    for each in reversed(given):
        taken = inbox.take(message(0, each))
        assert torch.equal(taken.features.keypoints, each.keypoints)


def test_only_the_newest_frames_are_kept() -> None:
    exchange = Exchange()
    inbox = exchange.listen(TOPIC, kept=3)
    given = [features(seed) for seed in range(5)]
    gone = weakref.ref(given[0].descriptors)
    for sec, each in enumerate(given):
        exchange.offer(TOPIC, header(sec), each, 'alike-t')
    assert len(inbox) == 3
    assert [inbox.take(message(s, f)) is not None for s, f in enumerate(given)] == [False] * 2 + [
        True
    ] * 3
    del given[:], each
    gc.collect()
    assert gone() is None


def test_with_a_callback_a_frame_comes_at_once_and_its_message_is_known() -> None:
    exchange = Exchange()
    told: list[Any] = []
    inbox = exchange.listen(TOPIC, told.append)
    given = features()
    exchange.offer(TOPIC, header(1), given, 'alike-t')
    assert [frame.header.stamp.sec for frame in told] == [1]
    assert inbox.take(message(1, given)) is told[0]
    assert inbox.take(message(2, given)) is None


def test_nothing_is_kept_where_nobody_listens() -> None:
    exchange = Exchange()
    given = features()
    assert exchange.offer(TOPIC, header(1), given) == 0
    inbox = exchange.listen(TOPIC)
    assert inbox.take(message(1, given, model='')) is None


def test_closed_inbox_frees_its_frames_and_receives_no_more() -> None:
    exchange = Exchange()
    told: list[Any] = []
    inbox = exchange.listen(TOPIC, told.append)
    given = features()
    exchange.offer(TOPIC, header(1), given)
    inbox.close()
    inbox.close()
    assert exchange.offer(TOPIC, header(2), given) == 0
    assert len(inbox) == 0
    assert len(told) == 1


def test_a_node_that_goes_without_closing_leaves_nothing() -> None:
    class Node:
        def __init__(self, exchange: Exchange) -> None:
            self.inbox = exchange.listen(TOPIC, self.on_frame)

        def on_frame(self, frame: Any) -> None:
            self.frame = frame

    exchange = Exchange()
    node = Node(exchange)
    given = features()
    exchange.offer(TOPIC, header(1), given)
    assert node.frame.features.descriptors.data_ptr() == given.descriptors.data_ptr()
    gone, tensor = weakref.ref(node), weakref.ref(given.descriptors)
    del node, given
    gc.collect()
    assert gone() is None
    assert tensor() is None
    assert exchange.inboxes(TOPIC) == []


def test_others_listen_if_there_are_more_subscriptions_than_inboxes_that_messages_reach() -> None:
    exchange = Exchange()
    outlet, elsewhere = exchange.outlet(TOPIC), exchange.outlet(TOPIC)
    assert outlet.others_listen(1)
    inbox = exchange.listen(TOPIC, lambda frame: None)
    given = features()
    assert outlet.offer(header(1), given) == 1
    assert outlet.others_listen(1)  # perhaps it is not the inbox's
    assert inbox.take(message(1, given, model='')) is not None
    assert not outlet.others_listen(1)
    assert outlet.others_listen(2)
    assert elsewhere.others_listen(1)
    inbox.close()
    assert outlet.others_listen(1)


def test_closing_waits_for_the_callback_at_work() -> None:
    exchange, events, entered = Exchange(), [], threading.Event()

    def on_frame(frame: Any) -> None:
        entered.set()
        time.sleep(0.2)
        events.append('called')

    inbox = exchange.listen(TOPIC, on_frame)
    thread = threading.Thread(target=exchange.offer, args=(TOPIC, header(1), features()))
    thread.start()
    entered.wait()
    inbox.close()
    events.append('closed')
    thread.join()
    assert events == ['called', 'closed']


def test_unresolved_topics_and_batches_are_refused() -> None:
    exchange = Exchange()
    with pytest.raises(ConfigError, match='resolve_topic_name'):
        exchange.listen('features')
    with pytest.raises(ConfigError, match='resolve_topic_name'):
        exchange.outlet('features')
    with pytest.raises(ConfigError, match='resolve_topic_name'):
        exchange.offer('features', header(1), features())
    with pytest.raises(ShapeError, match='2 images, expected 1'):
        exchange.offer(TOPIC, header(1), Features.cat([features(), features()]))


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


def test_offers_takes_and_closing_from_several_threads_lose_nothing_that_is_kept() -> None:
    exchange = Exchange()
    count, given = 50, features()
    messages = [message(sec, given) for sec in range(count)]
    taken: list[int] = []
    inbox = exchange.listen(TOPIC, kept=count)
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            exchange.listen(TOPIC).close()

    def take() -> None:
        for each in messages:
            while not stop.is_set() and inbox.take(each) is None:
                pass
            taken.append(each.header.stamp.sec)

    threads = [threading.Thread(target=take), threading.Thread(target=come_and_go)]
    for thread in threads:
        thread.start()
    for sec in range(count):
        exchange.offer(TOPIC, header(sec), given, 'alike-t')
    threads[0].join(30.0)
    stop.set()
    threads[1].join()
    assert taken == list(range(count))
    assert len(inbox) == 0


def test_features_in_memory_match_as_those_unpacked_from_messages() -> None:
    from kpfeat_core.factory import create_matcher
    from kpfeat_core.matching import match_pair

    exchange = Exchange()
    inbox = exchange.listen(TOPIC)
    sent = [features(3, count=60), features(3, count=50)]
    frames = []
    for sec, each in enumerate(sent):
        exchange.offer(TOPIC, header(sec), each, 'alike-t')
        frames.append(inbox.take(message(sec, each)).features)
    matcher = create_matcher()
    ours = match_pair(matcher, *frames)
    theirs = match_pair(matcher, *(message_to_features(message(0, each)) for each in sent))
    assert ours.indices0.tolist() == theirs.indices0.tolist()
    assert ours.indices1.tolist() == theirs.indices1.tolist()
    assert ours.scores.tolist() == theirs.scores.tolist()
