"""
The parameter file, written from the dataclasses: `python -m kpfeat_ros.parameter_file`.

config/kpfeat.yaml is its output; a test keeps the two in step.
"""

from dataclasses import Field, fields
import json
import textwrap

from kpfeat_core.config import DEFAULT_MODEL, ExtractorConfig, MatcherConfig, ViewConfig
from kpfeat_core.registry import extractor_config_class

from .diagnostics import DiagnosticsOptions
from .options import (
    ExtractorNodeOptions,
    LifecycleOptions,
    MatcherNodeOptions,
    ModelOptions,
    OverlayNodeOptions,
)

HEAD = """\
# Parameters of the nodes, each with its default. Written by
#   python -m kpfeat_ros.parameter_file > config/kpfeat.yaml
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
    lines = [HEAD.rstrip()]
    for node, classes in node_classes().items():
        lines += ['', f'/**/{node}:', '  ros__parameters:']
        for cls in classes:
            # models differ in their defaults: a value set here would be set for all of them
            of_model = issubclass(cls, ExtractorConfig)
            if of_model:
                lines += [
                    '',
                    f"    # Options of the model; the values shown are {DEFAULT_MODEL}'s.",
                ]
            for field in fields(cls):
                lines += _comment(field)
                lines.append(
                    f'    {"# " if of_model else ""}{field.name}: {json.dumps(field.default)}'
                )
    return '\n'.join(lines) + '\n' + PAIRS


def _comment(field: Field) -> list[str]:
    record = field.metadata
    words = record['help']
    if record['choices']:
        words += f' ({", ".join(record["choices"])})'
    bounds = [
        f'{word} {record[key]}'
        for word, key in (('at least', 'low'), ('at most', 'high'))
        if record[key] is not None
    ]
    text = '; '.join([words, *bounds, *(['live'] if record['live'] else [])])
    return textwrap.wrap(text, WIDTH, initial_indent='    # ', subsequent_indent='    # ')


if __name__ == '__main__':
    print(parameter_file(), end='')
