"""
The tables of parameters in docs/ros.md: `python -m kpfeat_ros.parameter_table` rewrites them.

They come from the dataclasses, as config/kpfeat.yaml does; a test keeps the page in step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
import json
from pathlib import Path

from kpfeat_core.config import MatcherConfig, ViewConfig
from kpfeat_core.errors import DataError
from kpfeat_core.registry import extractor_config_class, extractor_names
from kpfeat_core.sources import SourceConfig

from .diagnostics import DiagnosticsOptions
from .options import (
    CameraNodeOptions,
    ExtractorNodeOptions,
    LifecycleOptions,
    MatcherNodeOptions,
    ModelOptions,
    OverlayNodeOptions,
)

PAGE = Path(__file__).resolve().parents[1] / 'docs/ros.md'
BEGIN, END = '<!-- parameters:begin -->', '<!-- parameters:end -->'
GROUPS = {
    'Every node': [LifecycleOptions, DiagnosticsOptions],
    'extractor_node': [ModelOptions, ExtractorNodeOptions],
    'extractor_node: input': [ViewConfig],
    'matcher_node': [MatcherNodeOptions, MatcherConfig],
    'overlay_node': [OverlayNodeOptions],
    'camera_node': [CameraNodeOptions, SourceConfig],
}
HEAD = ('parameter', 'default', 'allowed', 'live', 'meaning')
MODELS = 'extractor_node: the model'


def parameter_tables() -> str:
    """Return a heading and a table in Markdown for each node, and one for all models."""
    lines = []
    for title, classes in GROUPS.items():
        found = [field for cls in classes for field in fields(cls)]
        lines += [f'### {title}', '', *_table(HEAD, map(_row, found)), '']
    lines += [f'### {MODELS}', '', *_table((HEAD[0], 'models', *HEAD[1:]), _rows_of_models())]
    return '\n'.join(lines)


def models_by_option() -> Mapping[str, Mapping[Field, Sequence[str]]]:
    """
    Return the models that have each option, by name and by its record.

    Models of one family share a record; another default, range or meaning is another record.
    """
    found: dict[str, dict[Field, list[str]]] = {}
    for model in extractor_names():
        for field in fields(extractor_config_class(model)):
            found.setdefault(field.name, {}).setdefault(field, []).append(model)
    return found


def replace_tables(text: str) -> str:
    """Return a page with the tables of today between its markers; raises DataError."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise DataError(f"'{PAGE}' has no line {BEGIN} with a line {END} after it; add both")
    return f'{before}{begin}\n\n{parameter_tables()}\n\n{end}{after}'


def _rows_of_models() -> Iterable[tuple[str, ...]]:
    for variants in models_by_option().values():
        for field, models in variants.items():
            name, *others = _row(field)
            yield name, 'all' if models == extractor_names() else ', '.join(models), *others


def _row(field: Field) -> tuple[str, ...]:
    default, live = json.dumps(field.default), 'yes' if field.metadata['live'] else ''
    return f'`{field.name}`', f'`{default}`', _allowed(field), live, field.metadata['help']


def _allowed(field: Field) -> str:
    choices, low, high = (field.metadata[key] for key in ('choices', 'low', 'high'))
    if choices or field.name == 'model':
        return ', '.join(choices or extractor_names())
    if low is None:
        return ''
    return f'{low:,g} or more' if high is None else f'{low:,g} to {high:,.12g}'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(line)} |' for line in (head, ['---'] * len(head), *rows)]


if __name__ == '__main__':
    PAGE.write_text(replace_tables(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
