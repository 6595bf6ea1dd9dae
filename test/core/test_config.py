"""Options: declared once, checked everywhere."""

from dataclasses import dataclass, fields

from kpfeat_core.config import (
    check_config,
    describe,
    ExtractorConfig,
    make_config,
    MatcherConfig,
    option,
    parse_options,
    redefault,
)
from kpfeat_core.errors import ConfigError
import pytest


@dataclass(frozen=True)
class Sample:
    """One option of each kind."""

    count: int = option(3, 'how many', low=1, high=9, live=True)
    share: float = option(0.5, 'how much', low=0.0, high=1.0)
    flag: bool = option(True, 'whether')
    mode: str = option('fast', 'which way', choices=('fast', 'exact'))


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        check_config(Sample(count=10, share=float('nan'), mode='slow'))
    text = str(caught.value)
    assert 'count is 10, expected at most 9' in text
    assert 'share is nan, expected a finite number' in text
    assert "mode is 'slow', expected one of fast, exact" in text


@pytest.mark.parametrize(
    'options', [{'count': 1.0}, {'count': True}, {'flag': 1}, {'mode': 3}, {'share': 'x'}]
)
def test_a_value_of_another_type_is_refused(options):
    with pytest.raises(ConfigError, match=f'{next(iter(options))} is .*, expected'):
        make_config(Sample, options)


def test_a_whole_number_is_good_enough_for_a_float():
    assert make_config(Sample, {'share': 1}).share == 1


def test_a_misspelt_option_gets_the_nearest_name_and_an_unknown_one_all():
    with pytest.raises(ConfigError, match="unknown option 'coutn'; did you mean 'count'?"):
        make_config(Sample, {'coutn': 2})
    with pytest.raises(ConfigError, match="'xyz'; Sample has: count, share, flag, mode"):
        make_config(Sample, {'xyz': 2})


def test_words_become_typed_options():
    words = ['count=7', 'share=.25', 'flag=no', 'mode=a=b']
    expected = {'count': 7, 'share': 0.25, 'flag': False, 'mode': 'a=b'}
    assert parse_options(words, Sample) == expected


@pytest.mark.parametrize('word', ['count', 'count=x', 'count=1.5', 'flag=maybe'])
def test_words_that_cannot_be_read_are_refused_with_what_was_expected(word):
    with pytest.raises(ConfigError, match='expected'):
        parse_options([word], Sample)


@pytest.mark.parametrize('cls', [ExtractorConfig, MatcherConfig])
def test_every_default_is_valid_and_every_option_explains_itself(cls):
    check_config(cls())
    assert all(record.metadata['help'] for record in fields(cls))


def test_an_option_is_described_in_words():
    found = {f.name: describe(f) for f in fields(Sample)}
    assert [o.allowed for o in found.values()] == ['1 to 9', '0 to 1', '', 'fast, exact']
    assert [o.default_in_words for o in found.values()] == ['3', '0.5', 'yes', 'fast']
    assert found['count'].live and found['count'].kind is int and not found['share'].live
    assert describe(fields(ExtractorConfig)[0]).allowed == '-1 or more'


def test_another_default_keeps_help_and_bounds():
    @dataclass(frozen=True)
    class Changed(redefault(Sample, count=5)):
        more: int = option(1, 'one more')

    assert [f.name for f in fields(Changed)] == ['count', 'share', 'flag', 'mode', 'more']
    assert Changed().count == 5
    before, after = describe(fields(Sample)[0]), describe(fields(Changed)[0])
    assert before._replace(default=5) == after


def test_an_old_name_of_an_option_is_read_with_a_warning():
    with pytest.warns(FutureWarning, match="'enlarge_to' is called 'upsample_to' now"):
        config = make_config(ExtractorConfig, parse_options(['enlarge_to=480'], ExtractorConfig))
    assert config.upsample_to == 480
    for cls, name in ((Sample, 'enlarge_to'), (MatcherConfig, 'homographies')):  # of others
        with pytest.raises(ConfigError, match=f"unknown option '{name}'"):
            make_config(cls, {name: 480})
