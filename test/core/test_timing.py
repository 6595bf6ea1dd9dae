"""Durations of the stages of an extraction."""

from kpfeat_core.registry import build_extractor
from kpfeat_core.runtime import timed_stages
import numpy as np
import pytest

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.mark.parametrize('options', [{}, {'multi_scale': True}])
def test_each_stage_is_noted_once_for_each_extraction(options) -> None:
    extractor = build_extractor('alike-t', **options).eval()
    noted: list[tuple[str, float]] = []
    with timed_stages(lambda *lap: noted.append(lap)):
        extractor.extract(IMAGE)
    assert [stage for stage, _ in noted] == ['transfer', 'network', 'detect', 'describe']
    assert all(seconds >= 0 for _, seconds in noted)


def test_nothing_is_noted_outside_and_after_a_failure_timing_is_off_again() -> None:
    noted: list[tuple[str, float]] = []
    with pytest.raises(ZeroDivisionError), timed_stages(lambda *lap: noted.append(lap)):
        raise ZeroDivisionError
    build_extractor('alike-t').eval().extract(IMAGE)
    assert noted == []
