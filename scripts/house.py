"""
Measure the house: files, lines, circles of imports, names with two meanings, options.

    python scripts/house.py                                   # the table, against its limits
    python scripts/house.py follow bag extract drive/ --out features.mcap

`follow` runs a command of kpfeat and lists the files of commands/ and bags/ that it passes
through. Standard library only. `test/test_architecture.py` holds the limits.
"""

import argparse
import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ('kpfeat_core', 'kpfeat_ros')
SMALL_LINES = 60
LIMITS = {
    'product files': 150,
    'product files under 60 lines': 17,
    'product lines': 30_000,
    'test lines': 24_500,
    'circles of imports': 0,
    'two-way pairs of folders': 0,
    'class names with two meanings': 0,
    'declared options': 200,
    'lines of README': 150,
}

# From the ground up. A module imports modules of its own storey or of lower ones; a folder counts
# as one name. Doors (commands, nodes) are what users open, so nothing imports them.
STOREYS = (
    ('errors', 'axes', 'config', 'runtime'),
    (
        *('features', 'geometry', 'image', 'io', 'camera', 'keypoints', 'patches', 'matching'),
        *('tracks', 'visualize', 'video', 'html_report', 'sources', 'virtual_camera'),
    ),
    ('models', 'losses', 'registry', 'weights', 'factory', 'preprocess', 'provenance'),
    ('messages', 'data', 'adaptation'),
    ('training', 'evaluation', 'benchmarking', 'bags'),
    ('commands', 'cli', 'kpfeat_ros'),
)


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the file of every module of the product, by its dotted name."""
    found = {}
    for path in sorted(path for name in PACKAGES for path in (root / name).rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Give every module that a file imports anywhere, relative ones in full."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *filter(None, [node.module])])
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Return which modules each module imports; `from . import x` of a module x means x alone."""
    files = modules(root)
    graph = {}
    for name, path in files.items():
        named = set(imports(path, root))
        inner = {module.rpartition('.')[0] for module in named}
        handed_out = {module.rpartition('.')[0] for module in named - set(files)}
        graph[name] = {m for m in named & set(files) if m not in inner or m in handed_out} - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a loop."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return sorted(map(list, groups))


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, waiting = set(), list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph[name])
    return seen


def place(module: str) -> str:
    """Return what a module counts as in STOREYS: its folder, or itself at the core's root."""
    parts = module.split('.')
    return parts[0] if parts[0] != 'kpfeat_core' or len(parts) == 1 else parts[1]


def two_way_pairs(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the pairs of places that import each other."""
    arrows = {(place(a), place(b)) for a in graph for b in graph[a] if place(a) != place(b)}
    return sorted((a, b) for a, b in arrows if a < b and (b, a) in arrows)


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports from a storey to a higher one."""
    level = {name: number for number, names in enumerate(STOREYS) for name in names}
    level['kpfeat_core'] = -1  # the face: it hands out names on demand
    return sorted(
        f'{a} imports {b}'
        for a in graph
        for b in graph[a]
        if a != 'kpfeat_core' and level[place(a)] < level[place(b)]
    )


def twin_classes(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the public class names that several modules define, with these modules."""
    places = defaultdict(list)
    for module, path in modules(root).items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                places[node.name].append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def count_options(root: Path = ROOT) -> int:
    """Count the fields of option dataclasses that are declared with `option(…)`."""
    return sum(
        isinstance(node, ast.AnnAssign)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, 'id', '') == 'option'
        for path in modules(root).values()
        for node in ast.walk(ast.parse(path.read_text()))
    )


def measure(root: Path = ROOT) -> dict[str, int]:
    """Return every figure of LIMITS."""
    graph = import_graph(root)
    lengths = [_lines(path) for path in modules(root).values()]
    return {
        'product files': len(lengths),
        'product files under 60 lines': sum(length < SMALL_LINES for length in lengths),
        'product lines': sum(lengths),
        'test lines': sum(_lines(path) for path in (root / 'test').rglob('*.py')),
        'circles of imports': len(circles(graph)),
        'two-way pairs of folders': len(two_way_pairs(graph)),
        'class names with two meanings': len(twin_classes(root)),
        'declared options': count_options(root),
        'lines of README': _lines(root / 'README.md'),
    }


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def follow(words: list[str]) -> list[str]:
    """Run a command of kpfeat; return the files of commands/ and bags/ that it passes through."""
    sys.path.insert(0, str(ROOT))
    from kpfeat_core.cli import main

    passed: Counter = Counter()

    def note(frame: object, event: str, _: object) -> None:
        if event == 'call' and frame.f_code.co_name != '<module>':
            passed[frame.f_code.co_filename] += 1

    sys.argv = ['kpfeat', *words]
    sys.setprofile(note)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    core = ROOT / 'kpfeat_core'
    names = (Path(name) for name in passed)
    own = sorted(str(name.relative_to(core)) for name in names if name.is_relative_to(core))
    return [name for name in own if name.startswith(('commands/', 'bags/'))]


def main() -> None:
    """Print the table, or the files that a command passes through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('words', nargs='*', help='nothing, or: follow COMMAND OF KPFEAT')
    words = parser.parse_known_args()[0].words and sys.argv[1:]
    if words and words[0] == 'follow':
        files = follow(words[1:])
        print('\n'.join([*files, f'{len(files)} files']))
        return
    for name, value in measure().items():
        mark = '' if value <= LIMITS[name] else '  <- too many'
        print(f'{name:32}{value:8,}  (at most {LIMITS[name]:,}){mark}')
    graph = import_graph()
    for line in [*circles(graph), *two_way_pairs(graph), *upward_imports(graph)]:
        print(line)
    for name, found in twin_classes().items():
        print(f'{name}: {", ".join(found)}')


if __name__ == '__main__':
    main()
