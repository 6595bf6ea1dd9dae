"""An extractor that tests steer through its life, and what others see of it."""

import threading

EXTRACTOR = '/extractor'


class Held:
    """Stands in for the network of a node: each extraction waits until it is released."""

    device = 'cpu'

    def __init__(self, node) -> None:
        self.batches: list[int] = []  # sizes of what came
        self._gate, self._extractor = threading.Semaphore(0), node.extractor
        node.model.extractor = self

    def release(self) -> None:
        self._gate.release(1000)

    def extract(self, images, masks):
        self.batches.append(len(images))
        assert self._gate.acquire(timeout=30)
        return self._extractor.extract(images, masks)


class Steered:
    """An extractor that waits to be told, and what it publishes about its life."""

    def __init__(self, ros, **parameters) -> None:
        from kpfeat_ros.extractor_node import ExtractorNode
        from lifecycle_msgs.msg import TransitionEvent

        self.ros = ros
        self.node = ros.start(ExtractorNode, **{'autostart': 'false'} | parameters)
        self.events: list = ros.listen(TransitionEvent, f'{EXTRACTOR}/transition_event')

    def change(self, *labels: str) -> bool:
        """Ask for transitions by name, one after another; gives whether the last succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        for label in labels:
            wanted = Transition(label=label)
            answer = self.ros.call(ChangeState, f'{EXTRACTOR}/change_state', transition=wanted)
        return answer.success

    @property
    def state(self) -> str:
        from lifecycle_msgs.srv import GetState

        return self.ros.call(GetState, f'{EXTRACTOR}/get_state').current_state.label

    def set(self, **values):
        return self.ros.set('extractor', **values)


def topics_of(ros, node: str = 'extractor') -> set[str]:
    """Return the topics of images and features that a node is connected to, as others see it."""
    try:
        found = [
            *ros.probe.get_subscriber_names_and_types_by_node(node, '/'),
            *ros.probe.get_publisher_names_and_types_by_node(node, '/'),
        ]
    except RuntimeError:  # not discovered yet, or gone
        return set()
    return {name for name, _ in found} & {'/image', '/features'}


def diagnostics(ros) -> list:
    """Return the statuses of the extractor, from now on."""
    from diagnostic_msgs.msg import DiagnosticArray

    messages = ros.listen(DiagnosticArray, '/diagnostics')

    class Statuses:
        def find(self, words: str):
            found = [m.status[0] for m in messages if words in m.status[0].message]
            return found[-1] if found else None

    return Statuses()
