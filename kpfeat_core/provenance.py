"""Where a number came from: commit, command, machine, versions."""

import os
from pathlib import Path
import platform
import re
import subprocess
import sys

import cv2
import torch

from . import __version__

CLONE = Path(__file__).resolve().parents[2]
_QUIET = {'capture_output': True, 'text': True, 'check': True}


def provenance(program: str) -> dict:
    """Return commit, command, machine and versions, for a line of results."""
    return {
        'commit': commit(),
        'command': command(program),
        'machine': f'{processor()}, {os.cpu_count()} cores',
        'load_average': [round(value, 2) for value in os.getloadavg()],
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'opencv': cv2.__version__,
        'kpfeat': __version__,
    }


def command(program: str) -> str:
    """Return the command line with files named without their folders, which differ everywhere."""
    return ' '.join([program, *(re.sub(r'[^\s=:,]*/', '', word) for word in sys.argv[1:])])


def commit() -> str:
    """Return the commit of this clone, '+' after it where files differ; 'unknown' without one."""
    git = ['git', '-C', str(CLONE)]
    if not (CLONE / '.git').exists():  # installed: a repository further up is not ours
        return 'unknown'
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


def device_name(device: torch.device) -> str:
    """Return the name of a graphics card, or of the processor."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return processor()
