"""The report as a page that stands alone, results as JSON, and the README's table."""

from dataclasses import replace
from html.parser import HTMLParser
import math
from pathlib import Path
import re
import runpy
import sys

from kpfeat_core.errors import ConfigError, DataError, KpfeatError
from kpfeat_core.evaluation.report import (
    Example,
    extreme_pairs,
    protocol_in_words,
    write_report,
)
from kpfeat_core.evaluation.results import find_protocol, PROTOCOLS, write_json
from kpfeat_core.evaluation.tables import all_columns, format_number
from made_results import made_results
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'benchmarks/accuracy_table.py'
VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}
EXAMPLE = Example('best', 'v_wall/1-2', {'MMA@3': 0.987}, np.zeros((40, 90, 3), np.uint8))


class Page(HTMLParser):
    """Collects text, elements and references, and complains where elements do not nest."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.references, self.words = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        given = dict(attributes)
        self.references += [given[k] for k in ('src', 'href', 'xlink:href') if k in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a report and reads the page."""
    pytest.importorskip('matplotlib', reason='the figures of a report are made with matplotlib')
    pytest.importorskip('jinja2', reason='reports are made with jinja2')

    def write(results, **options):
        path = tmp_path / 'new' / 'report.html'
        write_report(path, results, **options)
        html = path.read_text(encoding='utf-8')
        return Page(html), html

    return write


@pytest.fixture
def two():
    return [made_results('strong', 0.6), made_results('weak', 0.4)]


def test_a_report_holds_every_label_and_every_number(two, written):
    page, _ = written(two, command='kpfeat evaluate strong weak')
    assert 'kpfeat evaluate strong weak' in page.text
    for result in two:
        assert result.label in page.text
        for name in all_columns(two):
            assert name in page.text
            assert format_number(name, result.mean(name)) in page.text
    for group in two[0].groups:
        assert group in page.text


def test_a_report_needs_nothing_from_elsewhere_and_is_the_same_every_time(two, written):
    page, html = written(two, examples={'weak': [EXAMPLE]})
    assert not re.search(r'https?:|url\((?!#)|@import|<script|<link', html)
    assert page.references
    assert all(r.startswith(('#', 'data:image/jpeg;base64,')) for r in page.references)
    parts = [r[1:] for r in page.references if r.startswith('#')]
    assert all(f'id="{part}"' in html for part in parts)
    names = re.findall(r' id="([^"]*)"', html)
    assert len(names) == len(set(names))
    assert written(two, examples={'weak': [EXAMPLE]})[1] == html


def test_a_label_cannot_put_elements_into_the_page(written):
    evil = '<script>alert(1)</script>$x_$'
    result = made_results(evil, groups=('v_<b>', 'i_"q"'), data='<i>data', about={'a': '<u>'})
    page, html = written([result],
                         examples={evil: [replace(EXAMPLE, name='<em>"')]})  # fmt: skip
    assert 'script' not in page.elements and 'u' not in page.elements
    assert '<script>' not in html and evil in page.text


def test_a_report_shows_pictures_beside_their_numbers(two, written):
    worst = replace(EXAMPLE, label='worst', name='i_lamp/1-3', values={'corner_error': math.inf})
    page, _ = written(two, examples={'weak': [EXAMPLE, worst]})
    assert page.elements.count('img') == 2
    assert 'best: v_wall/1-2 · MMA@3 0.987' in page.text
    assert 'worst: i_lamp/1-3 · corner_error ∞' in page.text
    with pytest.raises(DataError, match='examples of orb'):
        written(two, examples={'orb': [EXAMPLE]})


def test_others_are_compared_with_the_first_unless_told_otherwise(two, written):
    assert 'Difference from strong' in written(two)[0].text
    assert 'Difference from weak' in written(two, reference='weak')[0].text
    with pytest.raises(ConfigError, match="reference is 'orb'"):
        written(two, reference='orb')
    alone, _ = written(two[:1])
    assert 'Difference from' not in alone.text and 'strong' in alone.text


def test_one_pair_alone_makes_a_report_that_warns_of_intervals(two, written):
    page, _ = written([replace(result, pairs=result.pairs[:1]) for result in two])
    assert '1 pair of images in 1 group,' in page.text
    assert 'too narrow to be relied on' in page.text


def test_no_pairs_and_columns_without_numbers_make_a_report(two, written):
    assert '0 pairs' in written([replace(two[0], pairs=())])[0].text
    pairs = tuple(replace(p, values={'MMA@3': math.nan, 'right': 3.0}) for p in two[0].pairs)
    page, _ = written([replace(two[0], pairs=pairs)])
    assert 'right' in page.text and 'MMA@3' not in page.text


def test_many_sequences_and_extractors_make_a_report(written):
    groups = tuple(f'{"vi"[k % 2]}_scene{k}' for k in range(24))
    page, _ = written([made_results(f'e{k}', groups=groups, count=1) for k in range(12)])
    assert 'i_scene23' in page.text and 'e11' in page.text


def test_poses_are_reported_with_their_own_columns(two, written):
    values = {'pose_AUC@5': 0.4, 'pose_AUC@10': 0.5, 'precision': 0.75, 'ms': 3.0}
    pairs = tuple(replace(p, values=values) for p in two[0].pairs)
    page, _ = written([replace(two[0], pairs=pairs, protocol=find_protocol('pose'))])
    assert '0.750' in page.text and 'recall of pose errors up to 10°' in page.text
    assert 'Homographies' not in page.text


@pytest.mark.parametrize('name', PROTOCOLS)
def test_every_protocol_can_be_said_in_words(name):
    protocol = find_protocol(name)
    text = ' '.join(protocol_in_words(protocol, ['HA@3', 'repeatability']))
    assert str(protocol.max_num_keypoints) in text
    assert ('RANSAC' in text) == (protocol.estimator == 'ransac')


@pytest.mark.parametrize('missing', ['matplotlib', 'jinja2'])
def test_a_missing_library_is_named_before_anything_is_written(
    two, tmp_path, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=rf"needs {missing}.*pip install 'kpfeat\[evaluate\]'"):
        write_report(tmp_path / 'r.html', two)
    assert not list(tmp_path.iterdir())


def test_the_best_and_the_worst_pairs_are_of_different_sequences_and_never_the_same(two):
    best, worst = extreme_pairs(two[0], 'MMA@3', 3)
    assert {p.group for p in best} == {p.group for p in worst} == set(two[0].groups)
    ordered = sorted(two[0].pairs, key=lambda pair: pair.values['MMA@3'])
    assert best[0] is ordered[-1] and worst[0] is ordered[0]
    few = replace(two[0], pairs=two[0].pairs[:3])
    best, worst = extreme_pairs(few, 'MMA@3', 3)
    assert len(best) == 2 and len(worst) == 1
    low = extreme_pairs(two[0], 'localization_px', 1)
    assert low[0][0].values['localization_px'] < low[1][0].values['localization_px']


@pytest.fixture
def run_script(monkeypatch):
    """Return a function that runs the script in this process; errors come out as they are."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    app = typer.Typer()
    app.command()(runpy.run_path(str(SCRIPT))['main'])

    def run(*arguments):
        done = CliRunner().invoke(app, [str(word) for word in arguments])
        if isinstance(done.exception, KpfeatError):
            raise done.exception
        return done

    return run


@pytest.fixture
def readme(tmp_path):
    """Write a page with markers, and results of two extractors beside it."""
    about = {'commit': 'abc123', 'command': 'kpfeat evaluate a|b'}
    made = [made_results(label, level, data='oxford', about=about)
            for label, level in (('a|b', 0.6), ('weak', 0.4))]  # fmt: skip
    write_json(tmp_path / 'accuracy/1.json', made)
    write_json(tmp_path / 'accuracy/2.json', [made_results('weak', data='synthetic')])
    published = made_results('other', data='oxford', protocol=find_protocol('d2net'))
    write_json(tmp_path / 'accuracy/3.json', [published])
    path = tmp_path / 'accuracy.md'
    path.write_text('before\n<!-- accuracy:begin -->\n<!-- accuracy:end -->\nafter\n')
    return path


def test_the_table_is_made_from_results_and_always_the_same(readme, run_script):
    arguments = (readme, '--results', readme.parent / 'accuracy')
    assert run_script(*arguments, '--check').exit_code == 1
    assert run_script(*arguments).exit_code == 0
    text = readme.read_text()
    assert run_script(*arguments, '--check').exit_code == 0
    assert run_script(*arguments).exit_code == 0 and readme.read_text() == text
    assert text.startswith('before\n') and text.endswith('\nafter\n')
    assert r'| a\|b | **.4' in text and 'other' not in text
    assert 'oxford, 24 pairs: MMA@3' in text and 'synthetic, 24 pairs: MMA@3' in text
    assert '`kpfeat evaluate a|b`; commit abc123.' in text
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert len(rows) == 4 and len({re.sub(r'\\\|', '', row).count('|') for row in rows}) == 1


def test_differences_are_printed_and_nothing_is_written(readme, run_script):
    folder, text = readme.parent / 'accuracy', readme.read_text()
    with pytest.raises(ConfigError, match="reference is 'none', expected one of"):
        run_script(readme, '--results', folder, '--against', 'none')
    done = run_script(readme, '--results', folder, '--against', 'weak')
    assert done.exit_code == 0, done.output
    (row,) = (line for line in done.output.splitlines() if line.startswith('a|b'))
    assert row.split()[1] == '+0.150'  # of MMA@3: three quarters of .6 and of .4
    assert readme.read_text() == text


def test_a_folder_without_results_and_results_twice_are_errors(readme, run_script):
    folder = readme.parent / 'accuracy'
    with pytest.raises(DataError, match='holds no results'):
        run_script(readme, '--results', folder / 'none')
    write_json(folder / '4.json', [made_results('weak', data='Oxford')])
    with pytest.raises(DataError, match=r"4.json' holds 'weak' on oxford for a second time"):
        run_script(readme, '--results', folder)


def test_a_readme_without_markers_is_one_sentence(tmp_path, monkeypatch, capsys):
    write_json(tmp_path / '1.json', [made_results('a', data='oxford')])
    path = tmp_path / 'README.md'
    path.write_text('nothing')
    monkeypatch.syspath_prepend(SCRIPT.parent)
    words = [str(SCRIPT), str(path), '--results', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', words)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name='__main__')
    errors = capsys.readouterr().err
    assert left.value.code == 2 and 'has no line' in errors and 'Traceback' not in errors


def test_the_tables_of_the_repository_are_those_of_the_results(run_script):
    done = run_script('--check')
    assert done.exit_code == 0, done.output


def test_motion_comes_first_and_the_readme_has_a_few_rows(readme, run_script):
    motion, folder = find_protocol('motion'), readme.parent / 'accuracy'
    for data in ('report', 'choose'):  # what is for choosing is not told
        made = made_results('sift', 0.7, data=data, protocol=motion)
        pairs = tuple(replace(p, values={'pose_AUC@5': p.values['MMA@3']}) for p in made.pairs)
        write_json(folder / f'0-{data}.json', [replace(made, pairs=pairs)])
    page = readme.rename(readme.with_name('README.md'))
    assert run_script(page, '--results', folder).exit_code == 0
    head, _, *rows = [line for line in page.read_text().splitlines() if line.startswith('|')]
    assert head.startswith('| | motion, 24 pairs: pose_AUC@5 | oxford,')
    assert [row.split(' | ')[0] for row in rows] == [
        '| alike-t', '| rotation-t', '| published-alike-t', '| sift', '| orb'
    ]  # fmt: skip
    assert rows[3].startswith('| sift | .5') and 'commit' not in page.read_text()
