"""
How long it takes to load each bundled model, beside importing PyTorch, which nobody escapes.

    python benchmarks/load_time.py --out benchmarks/results/load_time.jsonl

`load` is the median of `create_extractor` with the weights that come with kpfeat, in a process
that has imported PyTorch; `first` is its first call there, which imports the rest of kpfeat.
Modules are compiled before, as an installation has them.
"""

import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import Annotated, Optional

from common import provenance, ROOT
from kpfeat_core.registry import extractor_names
from kpfeat_core.weights.manifest import read_manifest
from rich.console import Console
from rich.table import Table
import typer

PROGRAM = """
import json, sys, time
begun = time.perf_counter()
import torch
imported = time.perf_counter() - begun
from kpfeat_core.registry import create_extractor
seconds = []
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    create_extractor(sys.argv[1])
    seconds.append(time.perf_counter() - begun)
print(json.dumps([imported, *seconds]))
"""


def measure(model: str, repeats: int, compiled: str) -> dict[str, float]:
    """Return seconds, in a process of its own; compiled: a folder that keeps compiled modules."""
    words = [sys.executable, '-c', PROGRAM, model, str(repeats)]
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=compiled)
    environment.pop('PYTHONDONTWRITEBYTECODE', None)
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    imported, *seconds = json.loads(done.stdout)
    load = statistics.median(seconds)
    return {'load': load, 'first': seconds[0], 'import_torch': imported}


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Option(help='append JSON lines to this file'),
    ] = None,
) -> None:
    """Load every bundled model several times."""
    bundled = [entry['model'] for entry in read_manifest().values()]
    models = [name for name in bundled if name in extractor_names()]  # hardnet comes with keynet
    table = Table('model', 'load, s', 'first, s', 'import torch, s')
    with TemporaryDirectory() as compiled:
        measure(models[0], 1, compiled)
        for model in models:
            row = measure(model, repeats, compiled)
            table.add_row(model, *(f'{row[key]:.3f}' for key in ('load', 'first', 'import_torch')))
            if out is not None:
                result = {'benchmark': 'load_time', 'model': model, **row, **provenance()}
                with out.open('a', encoding='utf-8') as file:
                    file.write(json.dumps(result) + '\n')
    Console().print(table)


if __name__ == '__main__':
    typer.run(main)
