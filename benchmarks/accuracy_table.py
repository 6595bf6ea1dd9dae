"""
Write the tables of accuracy from results that `kpfeat evaluate` wrote.

    python benchmarks/accuracy_table.py              # rewrites them, between two markers
    python benchmarks/accuracy_table.py --check      # exit code 1 where they would change
    python benchmarks/accuracy_table.py --against sift   # prints differences, pair by pair

docs/accuracy.md has all rows and where they come from, README.md a few. Of the .json files of the
folder those count that were measured under the protocol `motion` on scenes for reporting, or under
`default` on data sets named Oxford or synthetic. The order of rows is that of the files' names,
and within a file its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import re
import sys
from typing import Annotated, Optional

from common import ROOT
from kpfeat_core.errors import DataError, KpfeatError
from kpfeat_core.evaluation.results import read_json, Results
from kpfeat_core.evaluation.tables import BEST, Cell, comparison_table, MISSING, summary_cells
from rich.console import Console
import typer

# By protocol and word in the name of the data; the yardstick that counts most comes first.
SETS = {
    'motion': ('motion', 'report'),
    'oxford': ('default', 'oxford'),
    'synthetic': ('default', 'synthetic'),
}
COLUMNS = {
    'motion': ('pose_AUC@5', 'pose_AUC@10', 'epipolar@2'),
    'oxford': ('MMA@3', 'HA@3', 'repeatability'),
    'synthetic': ('MMA@3', 'HA@3', 'AUC@3'),
}
COMPARED = {  # times are of different days
    'motion': ('pose_AUC@5', 'pose_AUC@10', 'pose_AUC@20', 'epipolar@1', 'epipolar@2', 'MMA@3'),
    'oxford': ('MMA@3', 'HA@3', 'AUC@3', 'repeatability'),
    'synthetic': ('MMA@3', 'HA@3', 'AUC@3', 'repeatability'),
}
FEW = ('alike-t', 'rotation-t', 'published-alike-t', 'sift', 'orb')  # rows of the README
BEGIN, END = '<!-- accuracy:begin -->', '<!-- accuracy:end -->'
RESULTS = ROOT / 'benchmarks/results/accuracy'
PAGES = [ROOT / 'docs/accuracy.md', ROOT / 'README.md']


@dataclass
class Measured:
    """Results of each data set by label, and the labels in the order of the files."""

    labels: list[str] = field(default_factory=list)
    sets: dict[str, dict[str, Results]] = field(
        default_factory=lambda: {name: {} for name in COLUMNS}
    )

    def add(self, result: Results, path: Path) -> None:
        """Sort a result in; raises DataError where it is there already."""
        data, protocol = result.data.lower(), result.protocol.name
        name = next((k for k, (p, word) in SETS.items() if p == protocol and word in data), None)
        if name is None:
            return
        if result.label in self.sets[name]:
            raise DataError(
                f"'{path}' holds '{result.label}' on {name} for a second time; give it another "
                'label, or remove the older file'
            )
        self.sets[name][result.label] = result
        if result.label not in self.labels:
            self.labels.append(result.label)


def read_folder(folder: Path) -> Measured:
    """Read all results of a folder; raises DataError."""
    measured = Measured()
    for path in sorted(folder.glob('*.json')):
        for result in read_json(path):
            measured.add(result, path)
    if not measured.labels:
        raise DataError(
            f"'{folder}' holds no results on motion (report), Oxford or synthetic pairs; expected "
            '.json files that `kpfeat evaluate` wrote'
        )
    return measured


def table(measured: Measured, few: bool = False) -> str:
    """Return the table in Markdown, with where its numbers come from below, or a few rows."""
    names = [name for name, results in measured.sets.items() if results]
    heads, columns = [], []
    for name in names:
        results = measured.sets[name]
        wanted = COLUMNS[name][: 1 if few else None]
        cells = _cells(results, wanted)
        for k, column in enumerate(wanted):
            counts = sorted({len(result.pairs) for result in results.values()})
            pairs = f'{name}, {" or ".join(map(str, counts))} pairs: ' if k == 0 else ''
            heads.append(f'{pairs}{column}')
            columns.append({label: row[k] for label, row in cells.items()})
    lines = [_line(['', *heads]), '|---' * (len(heads) + 1) + '|']
    missing = Cell(MISSING)
    for label in FEW if few else measured.labels:
        texts = [_markdown(column.get(label, missing)) for column in columns]
        lines.append(_line([_escaped(label), *texts]))
    return '\n'.join(lines if few else [*lines, '', *_sources(measured)])


def replaced(text: str, content: str, path: Path) -> str:
    """Put content between the markers of a text; raises DataError where they are not."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"'{path}' has no line {BEGIN} with a line {END} after it; add both")
    return f'{before}{BEGIN}\n{content}\n{END}{after}'


def _cells(results: Mapping[str, Results], columns: Sequence[str]) -> dict[str, list[Cell]]:
    rows = summary_cells(list(results.values()), columns)
    return dict(zip(results, rows, strict=True))


def _markdown(cell: Cell) -> str:
    text = f'**{cell.text}**' if cell.kind == BEST else cell.text
    words = f'{text} ({cell.spread})' if cell.spread else text
    return re.sub(r'(?<!\d)0\.(?=\d)', '.', words)


def _line(cells: Iterable[str]) -> str:
    return re.sub(' +', ' ', f'| {" | ".join(cells)} |')


def _escaped(label: str) -> str:
    return re.sub(r'([\\|*_`<\[\]])', r'\\\1', label)


def _sources(measured: Measured) -> list[str]:
    """Return the commits and commands of all that was measured, in order, each once."""
    results = [
        r for label in measured.labels for s in measured.sets.values() if (r := s.get(label))
    ]
    found = {
        name: list(dict.fromkeys(str(r.about[name]) for r in results if r.about.get(name)))
        for name in ('command', 'commit')
    }
    commands = ', '.join(f'`{command}`' for command in found['command'])
    commits = ', '.join(found['commit'])
    parts = [commands, f'commit {commits}' if commits else '']
    return [f'{"; ".join(filter(None, parts))}.'] if any(parts) else []


def main(
    pages: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer 0.9 knows no `|`
        typer.Argument(help='files with the markers', show_default=False),
    ] = None,
    results: Annotated[Path, typer.Option(help='folder with .json files')] = RESULTS,
    check: Annotated[
        bool, typer.Option('--check', help='write nothing, exit with 1 if one is out of date')
    ] = False,
    against: Annotated[
        str, typer.Option(help='write nothing, and compare all with this label')
    ] = '',
) -> None:
    """Write the tables of accuracy from results of `kpfeat evaluate`."""
    measured = read_folder(results)
    if against:
        for name, found in measured.sets.items():
            if found:
                print(name)
                # a table in a pipe is as wide as it needs to be
                console = Console(width=None if sys.stdout.isatty() else 200)
                console.print(comparison_table(list(found.values()), against, COMPARED[name]))
        return
    for page in pages or PAGES:
        if not page.is_file():
            raise DataError(f"there is no file '{page}'")
        old = page.read_text(encoding='utf-8')
        new = replaced(old, table(measured, page.name == 'README.md'), page)
        if new != old and check:
            print(f'the table in {page.name} is out of date; run benchmarks/accuracy_table.py')
            raise typer.Exit(1)
        if new != old:
            page.write_text(new, encoding='utf-8')


if __name__ == '__main__':
    try:
        typer.run(main)
    except KpfeatError as error:
        Console(stderr=True).print(f'error: {error}', soft_wrap=True, markup=False)
        sys.exit(2)
