"""
Run extractor and matcher at full rate and watch their memory: `python benchmarks/soak.py`.

A camera sends as fast as asked, each node in a process of its own. Every few seconds a line of
JSON is added to benchmarks/results/soak.jsonl: resident memory, frames and drops of each node.
The exit code is 1 if memory grew after the first quarter by more than allowed.
"""

import argparse
from collections import defaultdict
import json
import os
from pathlib import Path
import subprocess
import sys
import time

from common import provenance, ROOT
from diagnostic_msgs.msg import DiagnosticArray
from kpfeat.msg import Matches
from kpfeat_ros.bringup import NodePlan, stop_processes
import rclpy
from rclpy.node import Node

RESULTS = ROOT / 'benchmarks/results/soak.jsonl'
REMAP = {'image': 'camera/image_raw'}
COUNTS = ('received', 'processed', 'dropped', 'failed')


def plans(rate_hz: float, size: str) -> list[NodePlan]:
    """Return camera, extractor and matcher."""
    camera = {'rate_hz': str(float(rate_hz)), 'size': size}
    return [
        NodePlan('camera', camera, {}),
        NodePlan('extractor', {'model': 'alike-t', 'device': 'auto'}, REMAP),
        NodePlan('matcher', {}, {}),
    ]


def resident_mib(process: subprocess.Popen) -> float:
    """Return what a process has in memory."""
    pages = int(Path(f'/proc/{process.pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


class Watcher(Node):
    """Listens to matches, so that all nodes work, and keeps what diagnostics say last."""

    def __init__(self) -> None:
        super().__init__('watcher')
        self.counts: dict[str, dict[str, int]] = defaultdict(dict)
        self.create_subscription(Matches, 'matches', lambda _: None, 1)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            name = status.name.rpartition('/')[2]
            self.counts[name] = {key: int(values.get(key, 0)) for key in COUNTS}


def soak(minutes: float, every_s: float, rate_hz: float, size: str) -> list[dict]:
    """Run the nodes and return a row for each look at them."""
    chosen, rows = plans(rate_hz, size), []
    processes = {plan.name: subprocess.Popen(plan.command()) for plan in chosen}
    watcher = Watcher()
    try:
        start = last = time.monotonic()
        while time.monotonic() - start < 60 * minutes:
            rclpy.spin_once(watcher, timeout_sec=0.1)
            ended = [name for name, process in processes.items() if process.poll() is not None]
            if ended:
                raise SystemExit(f'error: ended by themselves: {", ".join(ended)}')
            if time.monotonic() - last >= every_s:
                last = time.monotonic()
                memory = {name: round(resident_mib(p), 1) for name, p in processes.items()}
                counts = dict(watcher.counts)
                seconds = round(last - start, 1)
                rows.append({'seconds': seconds, 'resident_mib': memory, 'counts': counts})
    finally:
        stop_processes(list(processes.values()))
        watcher.destroy_node()
    return rows


def growth_mib(rows: list[dict]) -> dict[str, float]:
    """Return how much more each node held at most than at the end of the first quarter."""
    settled = rows[len(rows) // 4]['resident_mib']
    later = rows[len(rows) // 4 :]
    return {
        name: round(max(row['resident_mib'][name] for row in later) - memory, 1)
        for name, memory in settled.items()
    }


def main() -> int:
    """Soak, write the rows and judge; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--every', type=float, default=5.0, help='seconds between two lines')
    parser.add_argument('--rate', type=float, default=60.0, help='images a second')
    parser.add_argument('--size', default='640x480')
    parser.add_argument('--allowed', type=float, default=30.0, help='growth in MiB')
    given = parser.parse_args()
    rclpy.init()
    rows = soak(given.minutes, given.every, given.rate, given.size)
    rclpy.try_shutdown()
    if not rows:
        raise SystemExit('error: too short for a single line: lower --every')
    grown = growth_mib(rows)
    with RESULTS.open('a') as file:
        for row in rows:
            print(json.dumps(row), file=file)
        summary = {'options': vars(given), 'growth_mib': grown, **provenance()}
        print(json.dumps(summary), file=file)
    print(json.dumps({'growth_mib': grown, **rows[-1]}, indent=2))
    return int(max(grown.values()) > given.allowed)


if __name__ == '__main__':
    sys.exit(main())
