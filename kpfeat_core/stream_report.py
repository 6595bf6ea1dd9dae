"""What a run from camera to matches amounted to: rate, latency, counts, and share of truth."""

from dataclasses import dataclass, field

import numpy as np

from .matchers.pair import PairMatches
from .virtual_camera import VirtualCamera

TRUE_WITHIN_PX = 3.0


@dataclass
class StreamReport:
    """
    Collects frames and pairs as they arrive.

    camera: where the images are from a virtual camera, to compare matches with the truth.
    """

    camera: VirtualCamera | None = None
    keypoints: list[int] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    inliers: list[int] = field(default_factory=list)
    true_matches: list[int] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)

    def add_frame(self, keypoints: int) -> None:
        """Note the keypoints of one image."""
        self.keypoints.append(keypoints)

    def add_pair(self, pair: PairMatches, stamp0_ns: int, stamp1_ns: int, now_ns: int) -> None:
        """Note the matches of two images, received at a time of the clock of the stamps."""
        self.matches.append(len(pair))
        self.inliers.append(int(pair.inliers.sum()))
        self.latencies_ms.append(1e-6 * (now_ns - stamp1_ns))
        self.arrivals_ns.append(now_ns)
        if self.camera is not None:
            errors = self.camera.errors(pair.keypoints0, pair.keypoints1, stamp0_ns, stamp1_ns)
            self.true_matches.append(int((errors <= TRUE_WITHIN_PX).sum()))

    def rate_hz(self) -> float:
        """Return pairs a second from the first to the last; 0 for fewer than two."""
        if len(self.arrivals_ns) < 2:
            return 0.0
        return 1e9 * (len(self.arrivals_ns) - 1) / (self.arrivals_ns[-1] - self.arrivals_ns[0])

    def latency_ms(self) -> tuple[float, float]:
        """Return the median and the 95th percentile from image stamp to matches received."""
        median, high = np.percentile(self.latencies_ms, [50, 95])
        return float(median), float(high)

    def true_share(self) -> float:
        """Return the share of all matches within 3 pixels of the truth; 0 without matches."""
        return sum(self.true_matches) / max(1, sum(self.matches))

    def rows(self, sent: int, received: int, dropped: int) -> list[tuple[str, str]]:
        """
        Return names and values to be shown.

        sent: images of the camera. received: those that reached the extractor. dropped: those
        that a newer one replaced, there or at the matcher.
        """
        median, high = self.latency_ms()
        inlier_share = sum(self.inliers) / max(1, sum(self.matches))
        rows = [
            ('pairs matched', f'{len(self.matches)}'),
            ('rate', f'{self.rate_hz():.1f} Hz'),
            (
                'latency, image stamp to matches',
                f'median {median:.0f} ms, 95 % below {high:.0f} ms',
            ),
            ('keypoints of an image', f'{np.mean(self.keypoints or [0]):.0f}'),
            ('matches of a pair', f'{np.mean(self.matches):.0f}'),
            ('inliers of a pair', f'{np.mean(self.inliers):.0f} ({inlier_share:.1%})'),
            ('images dropped for newer ones', f'{dropped} of {sent}'),
            ('images that never reached the extractor', f'{max(0, sent - received)} of {sent}'),
        ]
        if self.camera is not None:
            what = f'matches within {TRUE_WITHIN_PX:g} px of the truth'
            rows.append((what, f'{self.true_share():.1%}'))
        return rows
