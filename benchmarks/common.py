"""What every benchmark shares: where the repository is, and what its numbers came from."""

import os
from pathlib import Path
import platform
import re
import subprocess
import sys

import cv2
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run from a clone, without installing
    sys.path.insert(0, str(ROOT))


def provenance() -> dict:
    """Return commit, command, machine and versions, for a line of results."""
    return {
        'commit': commit(),
        'command': command(),
        'machine': f'{processor()}, {os.cpu_count()} cores',
        'load_average': [round(value, 2) for value in os.getloadavg()],
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'opencv': cv2.__version__,
    }


def command() -> str:
    """Return the command line with files named without their folders, which differ everywhere."""
    name, *words = [re.sub(r'[^\s=:,]*/', '', word) for word in sys.argv]
    return ' '.join(['python', f'benchmarks/{name}', *words])


def commit() -> str:
    """Return the commit of this clone, with '+' where files differ from it."""
    git = ['git', '-C', str(ROOT)]
    try:
        head = subprocess.run([*git, 'rev-parse', '--short=12', 'HEAD'], **_QUIET).stdout.strip()
        changed = subprocess.run([*git, 'status', '--porcelain', '-uno'], **_QUIET).stdout
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return head + ('+' if changed.strip() else '')


def processor() -> str:
    """Return the processor's name."""
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


_QUIET = {'capture_output': True, 'text': True, 'check': True}
