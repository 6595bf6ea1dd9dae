"""Tracks of keypoints over frames, joined from the matches of pairs of frames."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from .axes import Float, Int
from .matching import PairMatches


@dataclass(frozen=True)
class Trail:
    """Where one keypoint was: points (m, 2) as x, y in pixels, the newest last; m >= 2."""

    points: Float[np.ndarray, 'm 2']
    age: int  # frames in which it was seen since its track began


@dataclass(frozen=True)
class _TrackedFrame:
    """The keypoints of one frame that belong to tracks, one a row."""

    number: int
    indices: Int[np.ndarray, ' k']
    ids: Int[np.ndarray, ' k']
    ages: Int[np.ndarray, ' k']
    points: Float[np.ndarray, 'k 2']


class Tracks:
    """
    The tracks of the last `length` frames.

    Frames are named by the caller, by their stamps for instance. Matches of consecutive frames
    make a chain; matches with a kept reference frame make tracks too, through the reference. Only
    inliers count. A frame that was left out ends all tracks that needed it.

    Memory is bounded by `length` frames, a reference among them.
    """

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self._frames: OrderedDict[Hashable, _TrackedFrame] = OrderedDict()  # by their latest use
        self._count = 0  # frames so far
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame0: Hashable, frame1: Hashable, pair: PairMatches) -> None:
        """Take in the matches of frame 0, known or not, and frame 1, the newest."""
        chosen = _one_for_each(pair)
        indices0, indices1 = pair.indices0[chosen], pair.indices1[chosen]
        known = self._frames.pop(frame0, None) or self._empty_frame()
        before = self._extended(known, indices0, pair.keypoints0[chosen])
        self._frames[frame0] = before
        rows = _rows_of(before.indices, indices0)
        if frame1 in self._frames:  # a stamp twice: the earlier frame goes on without a name
            self._frames[object()] = self._frames.pop(frame1)
        self._frames[frame1] = _TrackedFrame(
            self._take_number(),
            indices1,
            before.ids[rows],
            before.ages[rows] + 1,
            pair.keypoints1[chosen],
        )
        while len(self._frames) > max(self.length, 2):
            self._frames.popitem(last=False)

    def trails(self) -> list[Trail]:
        """Return the trails of the tracks that the newest frame has, the oldest tracks last."""
        frames = sorted(self._frames.values(), key=lambda frame: frame.number)
        if not frames or not len(frames[-1].ids):
            return []
        newest = frames[-1]
        recent = [frame for frame in frames if frame.number > newest.number - self.length]
        ids = np.concatenate([frame.ids for frame in recent])
        points = np.concatenate([frame.points for frame in recent])
        there = np.isin(ids, newest.ids)
        order = np.argsort(ids[there], kind='stable')  # frames stay in their order
        ids, points = ids[there][order], points[there][order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        ages = dict(zip(newest.ids.tolist(), newest.ages.tolist(), strict=True))
        trails = [
            Trail(part, ages[name])
            for part, name in zip(np.split(points, starts[1:]), ids[starts].tolist(), strict=True)
            if len(part) > 1
        ]
        return sorted(trails, key=lambda trail: trail.age)

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def _take_number(self) -> int:
        self._count += 1
        return self._count

    def _empty_frame(self) -> _TrackedFrame:
        none = np.zeros(0, np.int64)
        return _TrackedFrame(self._take_number(), none, none, none, np.zeros((0, 2), np.float32))

    def _extended(
        self,
        frame: _TrackedFrame,
        indices: Int[np.ndarray, ' k'],
        points: Float[np.ndarray, 'k 2'],
    ) -> _TrackedFrame:
        """Begin a track for each keypoint that has none."""
        new = ~np.isin(indices, frame.indices)
        count = int(new.sum())
        ids = np.arange(self._next_id, self._next_id + count)
        self._next_id += count
        return _TrackedFrame(
            frame.number,
            np.concatenate([frame.indices, indices[new]]),
            np.concatenate([frame.ids, ids]),
            np.concatenate([frame.ages, np.ones(count, np.int64)]),
            np.concatenate([frame.points, points[new]]),
        )


def _one_for_each(pair: PairMatches) -> Int[np.ndarray, ' k']:
    """Choose the inliers, and of several matches of one keypoint the best: tracks never merge."""
    rows = np.flatnonzero(pair.inliers)
    rows = rows[np.argsort(-pair.scores[rows], kind='stable')]
    for indices in (pair.indices0, pair.indices1):
        rows = rows[np.sort(np.unique(indices[rows], return_index=True)[1])]
    return rows


def _rows_of(
    indices: Int[np.ndarray, ' n'], wanted: Int[np.ndarray, ' k']
) -> Int[np.ndarray, ' k']:
    """Return the row of each wanted index, all of which are there."""
    order = np.argsort(indices)
    return order[np.searchsorted(indices, wanted, sorter=order)]
