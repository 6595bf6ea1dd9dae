"""Topics of a recording that go into an output as they are."""

from collections.abc import Collection, Generator

from ..decoding import embedded_definition
from ..flow import in_background
from ..reading import BagReader, Topic
from ..records import Damage, Record
from ...errors import DataError

ALL = '*'
AHEAD = 16  # messages that are read before they are written


class Copies:
    """
    The topics of a recording that are to be copied.

    names: of topics; ALL for all but those in `made`, which are written anyway. whole: the
    recording that `reader` reads a part of, whose topics are meant. left_out: those of ALL whose
    type nobody knows. count: messages so far.

    Raises DataError for a topic that is not there or cannot be copied.
    """

    def __init__(
        self,
        reader: BagReader,
        names: Collection[str],
        made: Collection[str],
        whole: BagReader | None = None,
    ) -> None:
        self._reader = reader
        self.topics: list[Topic] = []
        self.left_out: list[Damage] = []
        self.count = 0
        every = ALL in names
        whole = whole or reader
        for topic in whole.topics if every else whole.choose(names):
            if topic.name not in made:
                self._take(topic, every)
            elif not every:
                raise DataError(f"topic '{topic.name}' is written anew; it cannot be copied too")

    def records(self, start: int, stop: int) -> Generator[Record, None, None]:
        """Yield the messages with start <= log time < stop, in order."""
        if self.topics:
            for record in in_background(self._reader.records(self.topics, start, stop), AHEAD):
                self.count += 1
                yield record

    def _take(self, topic: Topic, every: bool) -> None:
        try:
            embedded_definition(topic.channel)
        except DataError as error:
            if not every:
                raise
            counts = {one.name: one.count for one in self._reader.topics}
            if topic.name in counts:
                path, reason = self._reader.recording.path, f'not copied: {error}'
                self.left_out.append(Damage(path, reason, counts[topic.name]))
        else:
            self.topics.append(topic)
