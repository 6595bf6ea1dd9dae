"""A node that watches features, matches and pictures, and keeps what a report needs."""

from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Features, Matches
from kpfeat_core.image import write_image
from kpfeat_core.messages.conversions import message_to_matches
from kpfeat_core.video import Video
from kpfeat_core.virtual_camera import StreamReport
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from .diagnostics import Statistics
from .endpoints import RELIABLE
from .frames import stamp_ns
from .images import image_to_array
from .worker import Worker

OUTPUTS = ('features', 'matches', 'image_keypoints', 'image_matches')
KINDS = (Features, Matches, Image, Image)


class Observer(Node):
    """
    Fills a report, and writes the pictures of matches to a film in a thread of its own.

    The film gets the newest picture when it is done with the one before, so that encoding does
    not add to the latency that is measured here.
    """

    def __init__(self, report: StreamReport, film: Video, **options: Any) -> None:
        super().__init__('observer', **options)
        self.report = report
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.pictures: dict[str, Image] = {}
        self.problem: Exception | None = None
        self._film = film
        self._filming = Worker([('film', self._add_to_film)], Statistics(), self._on_error)
        self._filming.start()
        callbacks = (self._on_features, self._on_matches, self._on_keypoints, self._on_picture)
        for kind, topic, callback in zip(KINDS, OUTPUTS, callbacks, strict=True):
            self.create_subscription(kind, topic, callback, RELIABLE)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, RELIABLE)
        self._camera = self.create_client(SetParameters, 'camera/set_parameters')

    def missing(self) -> list[str]:
        """Return the topics that nobody publishes so far."""
        return [topic for topic in OUTPUTS if not self.count_publishers(topic)]

    def has_pictures(self) -> bool:
        """Return whether a picture of each kind has come."""
        return len(self.pictures) == 2

    def why_no_pictures(self) -> str:
        """Return what the node that draws reports."""
        return f'no pictures; {self._said_by("overlay")}'

    def pause_camera(self) -> None:
        """Ask the camera node to send no more images, so that all counts come to rest."""
        paused = Parameter('sending', value=False).to_parameter_msg()
        self._camera.call_async(SetParameters.Request(parameters=[paused]))

    def number(self, node: str, name: str) -> float:
        """Return a number of a node's latest diagnostics; 0 if it never said."""
        return float(self.diagnostics.get(node, {}).get(name, 0))

    def why_not_ready(self) -> str:
        """Return the topics of nodes that have not come up."""
        return f'nobody publishes {", ".join(self.missing())}'

    def why_no_matches(self) -> str:
        """Return what the nodes along the way report."""
        return f'no matches; {self._said_by("camera", "extractor", "matcher")}'

    def _said_by(self, *nodes: str) -> str:
        said = {node: self.diagnostics.get(node, {}).get('says', 'nothing') for node in nodes}
        return '; '.join(f'the {node} says: {words}' for node, words in said.items())

    def write_pictures(self, folder: Path) -> list[Path]:
        """Write the latest picture of each kind and finish the film; gives the files."""
        self._filming.stop()
        self._film.close()
        files = []
        for name, message in sorted(self.pictures.items()):
            files.append(folder / f'{name}.png')
            write_image(files[-1], image_to_array(message))
        return [*files, self._film.path] if self._film.path.exists() else files

    def destroy_node(self) -> None:
        """Stop filming and destroy."""
        self._filming.stop()
        super().destroy_node()

    def _on_features(self, message: Features) -> None:
        self.report.add_frame(len(message.scores))

    def _on_matches(self, message: Matches) -> None:
        now_ns = self.get_clock().now().nanoseconds
        stamps = stamp_ns(message.header0), stamp_ns(message.header)
        self.report.add_pair(message_to_matches(message), *stamps, now_ns)

    def _on_keypoints(self, message: Image) -> None:
        self.pictures['keypoints'] = message

    def _on_picture(self, message: Image) -> None:
        self.pictures['matches'] = message
        self._filming.submit(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            self.diagnostics[status.name.rpartition('/')[2]] = {**values, 'says': status.message}

    def _add_to_film(self, message: Image) -> None:
        self._film.add(stamp_ns(message.header), image_to_array(message))

    def _on_error(self, kind: str, error: Exception, first: bool) -> None:
        self.problem = self.problem or error
