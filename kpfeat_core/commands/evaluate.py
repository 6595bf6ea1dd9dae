"""`kpfeat evaluate`: accuracy of extractors on image pairs with known truth."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, TYPE_CHECKING

import typer

from .common import DeviceOption, examples, PathOrNone, table_console, tell, track
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..evaluation import Results, Source
    from ..evaluation.pairs import Pair

SYNTHETIC_PAIRS = 500

EPILOG = examples(
    'kpfeat evaluate alike-t sift orb --data hpatches-sequences-release --out report/',
    'kpfeat evaluate ours=alike-t:runs/a/alike-t.safetensors published=alike-t:alike-t.pth sift '
    '--data hpatches-sequences-release --protocol d2net --reference published',
    'kpfeat evaluate alike-t keynet:keynet.pth,descriptor=sift --synthetic photos/ --pairs 1000',
    'kpfeat evaluate alike-t sift --data drives/ --reference sift',
    'kpfeat evaluate alike-t sift --poses pairs.txt --images scenes/',
    'An extractor is \\[LABEL=]NAME\\[:FILE]\\[,OPTION=VALUE…]: a model, sift, orb or akaze; FILE '
    'is a weight file or a published checkpoint.',
)


def evaluate(
    extractors: Annotated[
        list[str], typer.Argument(help='\\[LABEL=]NAME\\[:FILE]\\[,OPTION=VALUE…]; see below.')
    ],
    data: Annotated[
        PathOrNone,
        typer.Option(
            '--data', '-d', help='Sequences in the layout of HPatches, or scenes with poses.'
        ),
    ] = None,
    synthetic: Annotated[
        PathOrNone,
        typer.Option('--synthetic', help='Photographs, to make pairs with exact truth from.'),
    ] = None,
    poses: Annotated[
        PathOrNone,
        typer.Option('--poses', help="Pairs with intrinsics and poses, in SuperGlue's layout."),
    ] = None,
    images: Annotated[
        PathOrNone, typer.Option('--images', help='Folder of the images that --poses names.')
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            '--protocol',
            '-p',
            help='How pairs are looked at and scored, such as superpoint, kp2d-1000, d2net or '
            'keynet (a wrong name lists all); else motion for scenes, pose with --poses, default.',
            show_default=False,
        ),
    ] = '',
    pairs: Annotated[
        int, typer.Option('--pairs', min=1, help='Synthetic pairs to make.')
    ] = SYNTHETIC_PAIRS,
    seed: Annotated[int, typer.Option('--seed', min=0, help='Of the synthetic pairs.')] = 0,
    limit: Annotated[
        int,
        typer.Option(
            '--limit', min=-1, help='Use this many pairs, of all sequences alike; -1 all.'
        ),
    ] = -1,
    reference: Annotated[
        str, typer.Option('--reference', '-r', help='Label that the others are compared with.')
    ] = '',
    out: Annotated[
        PathOrNone, typer.Option('--out', '-o', help='Folder for report.html and results.json.')
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            '--workers',
            '-j',
            min=-1,
            help='Processes, of one thread each if more than one; -1 takes all cores.',
        ),
    ] = 1,
    cache: Annotated[
        PathOrNone,
        typer.Option(
            '--cache',
            help='Folder that keeps features; else $KPFEAT_CACHE or the user cache. '
            'May be deleted at any time.',
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option('--no-cache', help='Keep no features.')] = False,
    device: DeviceOption = 'cpu',
) -> None:
    """
    Measure the accuracy of extractors on image pairs with known truth.

    All extractors see the same pairs under the same protocol. Every mean comes with its 95 %
    interval, and with --reference every difference with the verdict whether it is more than
    noise. Features are kept, so that the next run with the same images, weights and options only
    matches and measures. Errors are in pixels of the images as the protocol resizes them.
    """
    from rich.markup import escape
    import torch

    from ..evaluation.pairs import find_scenes
    from ..evaluation.results import find_protocol, MOTION, POSE
    from ..evaluation.run import counted_pairs
    from ..evaluation.run import evaluate as measure
    from ..evaluation.sources import cache_bytes, default_cache, parse_source
    from ..html_report import require_libraries
    from ..provenance import provenance
    from ..runtime import count_workers

    if out is not None:
        require_libraries()
        out.mkdir(parents=True, exist_ok=True)
    scenes = data is not None and bool(find_scenes(data))
    chosen = find_protocol(protocol or (POSE if poses else MOTION if scenes else 'default'))
    for name, what, given in ((POSE, '--poses', poses), (MOTION, 'scenes in --data', scenes)):
        if (chosen.name == name) != bool(given):
            raise ConfigError(
                f"the protocol '{name}' is for {what}, and it alone, not {chosen.name}"
            )
    base = cache or default_cache()
    folder, imported = None if no_cache else base, base / 'imported'
    sources = [parse_source(text, device, imported) for text in extractors]
    _check_labels([source.label for source in sources], reference)
    for source in sources:
        source.create(chosen.extracted)  # missing files are errors before hours of work
    name, known = _load_pairs(data, synthetic, poses, images, pairs, seed, limit)
    count = len(counted_pairs(known, chosen))
    workers = min(count_workers(workers), len(known))
    about = provenance('kpfeat') | {'workers': workers}
    threads = torch.get_num_threads() if workers == 1 else 1
    results = []
    for source in sources:
        progress = partial(track, total=count, what=escape(source.label))
        found = measure(
            source, known, chosen, name, cache=folder, workers=workers, progress=progress
        )
        results.append(replace(found, about={**about, 'threads': threads, **found.about}))
    if out is not None:
        _write(out, results, sources, known, folder, reference, about['command'])
    if folder is not None:
        tell(f'features kept in {folder}: {cache_bytes(folder) / 1e6:,.0f} MB')
    _show(results, reference)


def _check_labels(labels: Sequence[str], reference: str) -> None:
    if len(set(labels)) < len(labels):
        raise ConfigError(f'labels must differ, got {", ".join(labels)}; write LABEL=NAME:FILE')
    if reference and reference not in labels:
        raise ConfigError(f"reference is '{reference}', expected one of {', '.join(labels)}")


def _load_pairs(
    data: Path | None,
    synthetic: Path | None,
    poses: Path | None,
    images: Path | None,
    count: int,
    seed: int,
    limit: int,
) -> tuple[str, Sequence['Pair']]:
    """Return the name of the data and its pairs; raises ConfigError and DataError."""
    from .. import evaluation

    given = [path for path in (data, synthetic, poses) if path is not None]
    if len(given) != 1:
        raise ConfigError(
            f'{len(given)} of --data, --synthetic and --poses are given, expected one of them'
        )
    if limit == 0:
        raise ConfigError('limit is 0, expected at least 1, or -1 for all pairs')
    if images is not None and poses is None:
        raise ConfigError('--images is given without --poses, whose images it is the folder of')
    if synthetic is not None:
        photographs = evaluation.find_photographs(synthetic)
        count = count if limit < 0 else min(limit, count)
        return f'synthetic-{count}', evaluation.SyntheticPairs(photographs, count, seed)
    if data is None:
        found = evaluation.pose_pairs(poses, images or '')
    elif evaluation.find_scenes(data):
        found = evaluation.motion_pairs(data)
    else:
        found = evaluation.planar_pairs(data)
    return given[0].resolve().stem, evaluation.balanced_subset(found, limit)


def _show(results: Sequence['Results'], reference: str) -> None:
    from ..evaluation import tables

    console = table_console()
    console.print(tables.summary_table(results))
    if tables.split_results(results):
        console.print(tables.split_table(results))
    if len(results[0].groups) > 1:
        console.print(tables.group_table(results, tables.main_column(results)))
    if reference:
        console.print(tables.comparison_table(results, reference))


def _write(
    out: Path,
    results: Sequence['Results'],
    sources: Sequence['Source'],
    pairs: Sequence['Pair'],
    cache: Path | None,
    reference: str,
    command: str,
) -> None:
    from ..evaluation.report import draw_examples, write_report
    from ..evaluation.results import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / 'results.json', results)
    drawn = {
        result.label: list(draw_examples(source, result, pairs, cache))
        for source, result in zip(sources, results, strict=True)
    }
    write_report(out / 'report.html', results, reference, drawn, command)
    tell(f'written to {out}: report.html, results.json')
