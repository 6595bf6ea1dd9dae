"""
Write config/kpfeat.yaml and the tables of parameters in docs/ros.md from the option dataclasses.

    python scripts/parameter_docs.py            # write both
    python scripts/parameter_docs.py --check    # only tell, with exit code 1, whether they differ

Needs the packages of requirements/core.txt, and no ROS.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
import json
from pathlib import Path
import sys
import textwrap

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kpfeat_core.config import (  # noqa: E402
    DEFAULT_MODEL,
    describe,
    ExtractorConfig,
    MatcherConfig,
    OptionDescription,
    ViewConfig,
)
from kpfeat_core.errors import DataError  # noqa: E402
from kpfeat_core.registry import extractor_config_class, extractor_names  # noqa: E402
from kpfeat_core.sources import SourceConfig  # noqa: E402
from kpfeat_ros.options import (  # noqa: E402
    CameraNodeOptions,
    DiagnosticsOptions,
    ExtractorNodeOptions,
    LifecycleOptions,
    MatcherNodeOptions,
    ModelOptions,
    OverlayNodeOptions,
)

FILE, PAGE = ROOT / 'config/kpfeat.yaml', ROOT / 'docs/ros.md'
FILE_HEAD = """\
# Parameters of the nodes, each with its default. Written by
#   python scripts/parameter_docs.py
# Copy it, keep the lines that you change, and pass it as params_file. Parameters marked live can
# be changed while the node runs, with `ros2 param set`.
"""
# Nodes of pairs of cameras, and what suits them better than the defaults.
PAIRS = """
# Pairs of cameras have parameters like those of /**/matcher and /**/overlay above.
/**/stereo_matcher:
  ros__parameters:
    # the cameras see a scene with depth from two places
    geometry: "fundamental"
"""
WIDTH = 99
BEGIN, END = '<!-- parameters:begin -->', '<!-- parameters:end -->'
GROUPS = {
    'Every node': [LifecycleOptions, DiagnosticsOptions],
    'extractor_node': [ModelOptions, ExtractorNodeOptions],
    'extractor_node: input': [ViewConfig],
    'matcher_node': [MatcherNodeOptions, MatcherConfig],
    'overlay_node': [OverlayNodeOptions],
    'camera_node': [CameraNodeOptions, SourceConfig],
}
MODELS = 'extractor_node: the model'
HEAD = ('parameter', 'default', 'allowed', 'live', 'meaning')


def options_of(classes: Iterable[type]) -> list[OptionDescription]:
    """Return the options of several dataclasses, in order."""
    return [describe(field) for cls in classes for field in fields(cls)]


def node_classes() -> dict[str, list[type]]:
    """Return the dataclasses behind the parameters of each node, for the default model."""
    own = {
        'extractor': [
            ModelOptions,
            ExtractorNodeOptions,
            ViewConfig,
            extractor_config_class(DEFAULT_MODEL),
        ],
        'matcher': [MatcherNodeOptions, MatcherConfig],
        'overlay': [OverlayNodeOptions],
    }
    return {
        name: [LifecycleOptions, *classes, DiagnosticsOptions] for name, classes in own.items()
    }


def parameter_file() -> str:
    """Return the parameter file with all nodes, parameters, descriptions and defaults."""
    lines = [FILE_HEAD.rstrip()]
    for node, classes in node_classes().items():
        lines += ['', f'/**/{node}:', '  ros__parameters:']
        for cls in classes:
            # models differ in their defaults: a value set here would be set for all of them
            of_model = issubclass(cls, ExtractorConfig)
            if of_model:
                note = f"    # Options of the model; the values shown are {DEFAULT_MODEL}'s."
                lines += ['', note]
            for option in options_of([cls]):
                value = f'{option.name}: {json.dumps(option.default)}'
                lines += [*_comment(option), f'    {"# " if of_model else ""}{value}']
    return '\n'.join(lines) + '\n' + PAIRS


def _comment(option: OptionDescription) -> list[str]:
    words = option.help + (f' ({", ".join(option.choices)})' if option.choices else '')
    bounds = (('at least', option.low), ('at most', option.high))
    parts = [words, *(f'{word} {bound}' for word, bound in bounds if bound is not None)]
    text = '; '.join([*parts, *(['live'] if option.live else [])])
    return textwrap.wrap(text, WIDTH, initial_indent='    # ', subsequent_indent='    # ')


def parameter_tables() -> str:
    """Return a heading and a table in Markdown for each node, and one for all models."""
    lines = []
    for title, classes in GROUPS.items():
        lines += [f'### {title}', '', *_table(HEAD, map(_row, options_of(classes))), '']
    lines += [f'### {MODELS}', '', *_table((HEAD[0], 'models', *HEAD[1:]), _rows_of_models())]
    return '\n'.join(lines)


def models_by_option() -> Mapping[str, Mapping[OptionDescription, Sequence[str]]]:
    """
    Return the models that have each option, by name and by what is said of it.

    Models that differ in default, range or meaning of an option have a row each.
    """
    found: dict[str, dict[OptionDescription, list[str]]] = {}
    for model in extractor_names():
        for option in options_of([extractor_config_class(model)]):
            found.setdefault(option.name, {}).setdefault(option, []).append(model)
    return found


def _rows_of_models() -> Iterable[tuple[str, ...]]:
    for variants in models_by_option().values():
        for option, models in variants.items():
            name, *others = _row(option)
            yield name, 'all' if models == extractor_names() else ', '.join(models), *others


def _row(option: OptionDescription) -> tuple[str, ...]:
    allowed = ', '.join(extractor_names()) if option.name == 'model' else option.allowed
    default = f'`{json.dumps(option.default)}`'
    return f'`{option.name}`', default, allowed, 'yes' if option.live else '', option.help


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(line)} |' for line in (head, ['---'] * len(head), *rows)]


def replace_tables(page: str) -> str:
    """Return a page with the tables of today between its markers; raises DataError."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise DataError(f"'{PAGE}' has no line {BEGIN} with a line {END} after it; add both")
    return f'{before}{begin}\n\n{parameter_tables()}\n\n{end}{after}'


def main(arguments: Sequence[str]) -> int:
    """Write both files, or check them; gives the exit code."""
    wanted = {FILE: parameter_file(), PAGE: replace_tables(PAGE.read_text(encoding='utf-8'))}
    old = [path for path, text in wanted.items() if path.read_text(encoding='utf-8') != text]
    if '--check' in arguments:
        for path in old:
            print(f'{path} is not what `python scripts/parameter_docs.py` writes', file=sys.stderr)
        return 1 if old else 0
    for path in old:
        path.write_text(wanted[path], encoding='utf-8')
        print(f'wrote {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
