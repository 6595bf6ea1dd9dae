"""Results: intervals, tables of what is bold and what is noise, and JSON."""

from dataclasses import replace
import io
import json
import math

from kpfeat_core.errors import ConfigError, DataError
from kpfeat_core.evaluation.results import (
    bootstrap_difference,
    bootstrap_interval,
    find_protocol,
    read_json,
    write_json,
)
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
import numpy as np
import pytest
from rich.console import Console


def printed(table, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def two():
    return [made_results('strong', 0.6), made_results('weak', 0.4)]


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_more_pairs():
    few = bootstrap_interval([0.0, 1.0] * 10)
    many = bootstrap_interval([0.0, 1.0] * 500)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    # the standard error of 1000 coin flips is 0.0158
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * 0.0158, rel=0.1)


def test_equal_values_and_constant_gains_have_no_spread_and_nothing_is_not_a_number():
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)
    others = np.array([0.1, 0.5, 1.0, 0.2, 0.9])
    assert bootstrap_difference(others + 0.25, others) == pytest.approx((0.25, 0.25, 0.25))
    assert all(map(math.isnan, [*bootstrap_interval([]), *bootstrap_difference([], [])]))
    with pytest.raises(ValueError, match='same shape'):
        bootstrap_difference([0.5], [0.1, 0.2])


def test_a_difference_is_the_same_for_the_same_seed():
    values, others = np.random.default_rng(3).normal(0, 1, (2, 30))
    first = bootstrap_difference(values, others, seed=5)
    assert first == bootstrap_difference(values, others, seed=5)
    assert first != bootstrap_difference(values, others, seed=6)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(1, 2, 50).tolist(), 0.9, rounds=300)
        held += low <= 1 <= high
    assert 0.83 * 200 <= held <= 0.96 * 200


def test_pairs_of_one_origin_are_drawn_together():
    values = np.repeat([0.0, 1.0, 0.2, 0.7], 50)
    origins = np.repeat(list('abcd'), 50)
    apart = bootstrap_interval(values)
    together = bootstrap_interval(values, origins=origins)
    assert together == pytest.approx(bootstrap_interval([0.0, 1.0, 0.2, 0.7]))
    assert together[0] < apart[0] < apart[1] < together[1]
    gain = bootstrap_difference(values, values * 0, origins=origins)
    assert gain[1:] == pytest.approx(together)
    only = bootstrap_interval(values, origins=['a'] * 200)
    assert only == apart


def test_origins_weigh_as_many_pairs_as_they_have():
    low, high = bootstrap_interval([0.0, 0, 0, 1], 1.0, 500, origins=list('aaab'))
    assert (low, high) == (0, 1)
    means = {bootstrap_interval([0.0, 0, 0, 1], 0, 1, k, list('aaab'))[0] for k in range(30)}
    assert means == {0, 0.25, 1}


def test_where_scenes_count_alike_scenes_and_their_pairs_are_drawn():
    values, origins = [0.0] * 90 + [1.0] * 10, ['a'] * 90 + ['b'] * 10
    alike = bootstrap_interval(values, origins=origins, alike=True)
    assert alike == (0, 1)  # no scene differs within itself
    mixed = np.random.default_rng(0).permutation(np.repeat([0.0, 1.0], 50))
    low, high = bootstrap_interval(mixed, origins=origins, alike=True)
    one_level = bootstrap_interval(mixed, origins=origins)
    assert low < one_level[0] < one_level[1] < high
    assert bootstrap_difference(values, [0.0] * 100, origins=origins, alike=True)[0] == 0.5
    only = bootstrap_interval(mixed, origins=['a'] * 100, alike=True)
    assert only == pytest.approx(bootstrap_interval(mixed), abs=0.02)


def test_means_of_motion_are_over_scenes_and_its_differences_may_be_clear():
    motion, groups = find_protocol('motion'), ('street', 'room')
    strong, weak = (
        made_results(label, level, groups, protocol=motion)
        for label, level in (('strong', 0.6), ('weak', 0.4))
    )
    fewer = replace(strong, pairs=strong.pairs[:10])  # eight and two
    expected = np.mean([only_group(fewer, group).mean('MMA@3') for group in groups])
    assert fewer.mean('MMA@3') == pytest.approx(expected)
    assert comparison_cells([strong, weak], 'weak', ['MMA@3'])['strong'][0].kind == 'better'


def test_bootstrap_difference_is_paired_and_sees_what_two_intervals_hide():
    rng = np.random.default_rng(1)
    others = rng.uniform(0, 1, 60)  # how hard each pair is for everybody
    values = others + rng.normal(0.03, 0.05, 60)
    difference, low, high = bootstrap_difference(values, others)
    assert difference == pytest.approx(values.mean() - others.mean())
    assert 0 < low < difference < high
    unpaired = bootstrap_interval(values.tolist())[0]
    assert unpaired < bootstrap_interval(others.tolist())[1]
    swapped = bootstrap_difference(others, values)
    assert swapped == pytest.approx((-difference, -high, -low))


def test_bootstrap_difference_of_equals_is_mostly_noise():
    rng = np.random.default_rng(2)
    clear = 0
    for _ in range(200):
        _, low, high = bootstrap_difference(*rng.normal(0, 1, (2, 40)), rounds=300)
        clear += low > 0 or high < 0
    assert clear <= 0.1 * 200  # 5 % are expected


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
    for row in summary_cells(two, ['repeatability', 'matches']):  # equal; more is not better
        assert [cell.kind for cell in row] == ['best', '']
    assert {cell.kind for cell in summary_cells(two[:1], headlines(two))[0]} == {''}  # alone


def test_one_pair_has_no_interval_and_its_differences_are_noise(two):
    one = [replace(result, pairs=result.pairs[1:2]) for result in two]
    assert summary_cells(one, ['MMA@3'])[0][0].spread == ''
    cell = comparison_cells(one, 'weak', ['MMA@3'])['strong'][0]
    assert (cell.spread, cell.kind) == ('one pair', 'noise')


def test_a_column_without_a_number_is_left_out_and_a_dash_where_one_extractor_lacks_it(two):
    pairs = tuple(replace(p, values={**p.values, 'HA@3': math.nan}) for p in two[0].pairs)
    alone = [replace(two[0], pairs=pairs)]
    assert 'HA@3' not in headlines(alone) and 'HA@3' not in all_columns(alone)
    assert 'corner_error' not in all_columns(two)  # infinite after a failure
    lacking = [{k: v for k, v in p.values.items() if k != 'HA@3'} for p in two[1].pairs]
    pairs = tuple(replace(p, values=v) for p, v in zip(two[1].pairs, lacking, strict=True))
    cells = summary_cells([two[0], replace(two[1], pairs=pairs)], ['HA@3'])
    assert cells[1][0] == Cell('—') and cells[0][0].text != '—'


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
        ('MMA@3', math.nan, '—'),
    ],
)
def test_numbers_have_the_digits_that_mean_something(name, value, text):
    assert format_number(name, value) == text


def test_results_come_back_from_json_as_they_went(two, tmp_path):
    results = [replace(two[0], about={'options': {'a': 1}}), two[1]]
    path = tmp_path / 'new' / 'results.json'
    write_json(path, results)
    back = read_json(path)
    assert [r.label for r in back] == ['strong', 'weak'] and back[0].about == results[0].about
    assert back[0].protocol == results[0].protocol
    for name in ('MMA@3', 'localization_px'):
        assert np.allclose(back[0].column(name), two[0].column(name), rtol=1e-4, equal_nan=True)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"results": [{}]}', '{"results": 3}'])
def test_a_file_that_holds_no_results_is_an_error(tmp_path, text):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(DataError, match='expected a .json file that `kpfeat evaluate` wrote'):
        read_json(path)
