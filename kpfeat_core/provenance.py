"""
The things that results depend on, as plain values, and the origin of a number.

Outputs of an earlier run can be continued where `describe_run` is the same; `digest` is its short
name. `provenance` is for readers of a number who measure it again.
"""

import ast
from collections.abc import Sequence
from dataclasses import asdict
import functools
import hashlib
import json
import os
from pathlib import Path
import platform
import re
import subprocess
import sys
from typing import Any, TYPE_CHECKING

import cv2
import torch

from . import __version__

if TYPE_CHECKING:
    from .config import ViewConfig

CLONE = Path(__file__).resolve().parents[1]
_QUIET = {'capture_output': True, 'text': True, 'check': True}


def digest(data: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def describe_run(
    extractor: torch.nn.Module | None = None,
    *,
    files: Sequence[Path] | None = None,
    view: 'ViewConfig | None' = None,
    **settings: Any,
) -> dict[str, Any]:
    """
    Return all that results depend on, as plain values that can be compared and written as JSON.

    extractor: its name, options, weights and device, and the versions of the libraries; files: of
    the input, identified by name, size and time of change; view: how images are preprocessed,
    with the content of the files that it names; settings: all else, kept as given.
    """
    run: dict[str, Any] = {}
    if files is not None:
        known = [(file.name, file.stat()) for file in files]
        run['files'] = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in known]
    if extractor is not None:
        run['versions'] = [__version__, torch.__version__, cv2.__version__]
        run['model'] = [extractor.name, asdict(extractor.config), weights_digest(extractor)]
        run['device'] = str(extractor.device)
    if view is not None:
        run['view'] = asdict(view)
        for name in ('mask', 'calibration_file'):
            path = run['view'][name]
            run['view'][name] = path and hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return run | settings


def weights_digest(extractor: torch.nn.Module) -> str:
    """Return the SHA-256 of all learned numbers, those of submodules among them."""
    total = hashlib.sha256()
    networks = [extractor.network, *(network for network, _ in extractor.submodules().values())]
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


@functools.cache
def code_digest(*modules: str) -> str:
    """Return the SHA-256 of the source of modules of kpfeat_core and of all that they import."""
    total = hashlib.sha256()
    for path in sorted(imported_files(*modules)):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def imported_files(*modules: str) -> set[Path]:
    """Return the files of modules, such as 'models/alike', and of all that they import."""
    found: set[Path] = set()
    waiting = [Path(__file__).parent / f'{name}.py' for name in modules]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += _imports(path)
    return found


def _imports(path: Path) -> set[Path]:
    """Return the files that a module's relative imports name, wherever in it they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parents[node.level - 1].joinpath(*(node.module or '').split('.'))
        found |= {folder.with_suffix('.py'), *(folder / f'{a.name}.py' for a in node.names)}
    return found


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
