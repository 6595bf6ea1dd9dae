"""Tables of results: what is bold, what is noise, what is left out."""

from dataclasses import replace
import io
import math

from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.evaluation.results import find_protocol, PairResult
from kpfeat_core.evaluation.tables import (
    all_columns,
    Cell,
    comparison_cells,
    comparison_table,
    format_number,
    group_cells,
    group_table,
    headlines,
    main_column,
    only_group,
    split_results,
    split_table,
    summary_cells,
    summary_table,
)
from made_results import made_results
import pytest
from rich.console import Console


def printed(table, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def two():
    return [made_results('strong', 0.6), made_results('weak', 0.4)]


def test_a_summary_has_a_row_for_each_extractor_with_headlines_matches_and_time(two):
    assert headlines(two) == ['MMA@3', 'HA@3', 'AUC@3', 'repeatability', 'matches', 'ms']
    text = printed(summary_table(two))
    assert '24 pairs' in text and 'protocol default' in text
    row = next(line for line in text.splitlines() if line.startswith('strong'))
    assert format_number('MMA@3', two[0].mean('MMA@3')) in row and '100' in row


def test_the_best_is_the_highest_of_shares_and_the_lowest_of_times(two):
    strong, weak = summary_cells(two, ['MMA@3', 'ms', 'localization_px'])
    assert [cell.kind for cell in strong] == ['best', '', 'best']
    assert [cell.kind for cell in weak] == ['', 'best', '']


def test_equal_numbers_are_all_the_best_and_more_matches_are_not_better(two):
    for row in summary_cells(two, ['repeatability', 'matches']):
        assert [cell.kind for cell in row] == ['best', '']


def test_one_extractor_alone_is_not_the_best_of_anything(two):
    assert {cell.kind for cell in summary_cells(two[:1], headlines(two))[0]} == {''}


def test_one_pair_has_no_interval_and_its_differences_are_noise(two):
    one = [replace(result, pairs=result.pairs[1:2]) for result in two]
    assert summary_cells(one, ['MMA@3'])[0][0].spread == ''
    cell = comparison_cells(one, 'weak', ['MMA@3'])['strong'][0]
    assert (cell.spread, cell.kind) == ('one pair', 'noise')


def test_a_column_that_one_extractor_lacks_is_a_dash_for_it(two):
    pairs = tuple(
        PairResult(p.group, p.name, {k: v for k, v in p.values.items() if k != 'HA@3'})
        for p in two[1].pairs
    )
    cells = summary_cells([two[0], replace(two[1], pairs=pairs)], ['HA@3'])
    assert cells[1][0] == Cell('–') and cells[0][0].text != '–'


def test_a_column_without_a_number_is_left_out(two):
    pairs = tuple(replace(p, values={**p.values, 'HA@3': math.nan}) for p in two[0].pairs)
    alone = [replace(two[0], pairs=pairs)]
    assert 'HA@3' not in headlines(alone) and 'HA@3' not in all_columns(alone)


def test_errors_that_are_infinite_after_a_failure_are_not_averaged(two):
    assert 'corner_error' not in all_columns(two)


def test_results_without_pairs_make_an_empty_table(two):
    empty = [replace(two[0], pairs=())]
    assert main_column(empty) == '' and 'strong' in printed(summary_table(empty))


def test_a_difference_says_better_worse_or_noise():
    groups = tuple('abcdef')
    two = [made_results('strong', 0.6, groups), made_results('weak', 0.4, groups)]
    cells = comparison_cells(two, 'weak', ['MMA@3', 'ms', 'repeatability', 'localization_px'])
    assert list(cells) == ['strong']
    assert [cell.kind for cell in cells['strong']] == ['better', 'worse', 'noise', 'better']
    assert cells['strong'][0].text.startswith('+0.1') and ' to ' in cells['strong'][0].spread
    text = printed(comparison_table(two, 'weak'))
    assert 'difference from weak' in text and 'noise' in text


def test_fewer_than_six_sequences_say_nothing_about_others(two):
    cells = comparison_cells(two, 'weak', ['MMA@3'])
    assert cells['strong'][0].kind == 'noise'
    alone = [only_group(result, 'v_wall') for result in two]  # whose pairs are drawn
    assert comparison_cells(alone, 'weak', ['MMA@3'])['strong'][0].kind == 'better'


def test_a_reference_that_is_none_of_them_is_an_error(two):
    with pytest.raises(ConfigError, match="'orb', expected one of strong, weak"):
        comparison_table(two, 'orb')


def test_groups_whose_names_begin_alike_are_kept_apart(two):
    rows = group_cells(two, 'MMA@3')
    assert list(rows) == ['v_wall', 'v_wallpaper', 'i_lamp']
    wall = [p.values['MMA@3'] for p in two[0].pairs if p.group == 'v_wall']
    assert rows['v_wall'][0] == Cell(format_number('MMA@3', sum(wall) / len(wall)), '', 'best')
    assert 'v_wallpaper' in printed(group_table(two, 'MMA@3'))


def test_sequences_are_split_by_the_first_letters_of_their_names(two):
    splits = split_results(two)
    assert list(splits) == ['viewpoint', 'light']
    assert [len(splits[name][0].pairs) for name in splits] == [16, 8]
    text = printed(split_table(two))
    assert 'viewpoint: strong' in text and 'light: weak' in text


@pytest.mark.parametrize('groups', [('light', 'hard'), ('v_a', 'v_b'), ('v_a', 'i_b', 'other')])
def test_groups_that_are_not_of_several_kinds_are_not_split(groups):
    assert split_results([made_results('a', groups=groups)]) == {}


@pytest.mark.parametrize(
    ('others', 'words'),
    [
        ([], 'no results'),
        ([made_results('a'), made_results('b', data='else')], 'one data set under one protocol'),
        (
            [made_results('a'), made_results('b', protocol=find_protocol('d2net'))],
            'one data set under one protocol',
        ),
        ([made_results('a'), made_results('a')], 'labels of extractors must differ'),
    ],
)
def test_results_that_do_not_belong_together_are_refused(others, words):
    with pytest.raises(DataError, match=words):
        summary_table(others)


def test_a_label_is_text_and_not_markup():
    assert '[red]a[/red]' in printed(summary_table([made_results('[red]a[/red]')]))


@pytest.mark.parametrize(
    ('name', 'value', 'text'),
    [
        ('MMA@3', 0.12345, '0.123'),
        ('matches', 451.6, '452'),
        ('ms', 7.123, '7.12'),
        ('ms', 321.4, '321'),
        ('localization_px', 1.234, '1.23'),
        ('corner_error', math.inf, '∞'),
        ('MMA@3', math.nan, '–'),
    ],
)
def test_numbers_have_the_digits_that_mean_something(name, value, text):
    assert format_number(name, value) == text
