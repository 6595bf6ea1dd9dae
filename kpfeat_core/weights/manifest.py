"""The manifest of the bundled weights: the model, licence and checksum of each file."""

import json
from pathlib import Path
from typing import NamedTuple

from .files import BUNDLED, load_weights, read_architecture, read_metadata, sha256
from ..errors import KpfeatError, WeightsError
from ..io import replacing
from ..registry import build_network

MANIFEST = 'manifest.json'


class WeightCheck(NamedTuple):
    """The check of one weight file; `problem` is '' where all is well."""

    path: Path
    model: str = ''
    licence: str = ''
    size: int = 0
    problem: str = ''


def verify_file(path: Path | str) -> WeightCheck:
    """Check that a weight file is complete, finite and fits the model that it names."""
    path = Path(path)
    try:
        metadata = read_metadata(path)
        if 'model' not in metadata:
            raise WeightsError('its metadata do not name the model that it is for')
        load_weights(build_network(metadata['model'], **read_architecture(path)), path)
    except KpfeatError as error:
        return WeightCheck(path, problem=str(error))
    return WeightCheck(path, metadata['model'], metadata.get('licence', ''), path.stat().st_size)


def verify_bundled(folder: Path = BUNDLED) -> list[WeightCheck]:
    """Check the files of the manifest, their model cards, and that nothing lies there unlisted."""
    manifest = read_manifest(folder)
    found = {path.name for path in folder.glob('*.safetensors')}
    return [
        _verify_entry(folder / name, manifest.get(name)) for name in sorted(found | set(manifest))
    ]


def _verify_entry(path: Path, entry: dict | None) -> WeightCheck:
    verdict = verify_file(path)
    if verdict.problem:
        return verdict
    problem = ''
    if entry is None:
        problem = f'it is not in {MANIFEST}'
    elif entry.get('sha256') != sha256(path):
        problem = f'its SHA-256 is not the one in {MANIFEST}: the file was changed or damaged'
    elif not verdict.licence:
        problem = 'it does not name its licence'
    elif not path.with_name(f'{verdict.model}.md').is_file():
        problem = f'its model card {verdict.model}.md is missing'
    return verdict._replace(problem=problem)


def read_manifest(folder: Path = BUNDLED) -> dict[str, dict]:
    """Return the records by file name, empty where there is no manifest; raises WeightsError."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise WeightsError(f"'{path}' is damaged; install kpfeat again") from error


def write_manifest(folder: Path = BUNDLED) -> dict[str, dict]:
    """Record all weight files of a folder, after checking each; raises WeightsError."""
    records = {}
    for path in sorted(folder.glob('*.safetensors')):
        verdict = verify_file(path)
        if verdict.problem:
            raise WeightsError(f"'{path}': {verdict.problem}")
        records[path.name] = {
            'model': verdict.model,
            'licence': verdict.licence,
            'size': verdict.size,
            'sha256': sha256(path),
        }
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(records, indent=2) + '\n', encoding='utf-8')
    return records
