"""Threads and memory of the process, and durations of the stages of an extraction."""

import os
import subprocess
import sys

from kpfeat_core.registry import build_extractor
from kpfeat_core.runtime import timed_stages
import numpy as np
import pytest

# Page faults of asking 20 times for a block of 32 MiB, as a map of a network is.
FAULTS = """
import ctypes, resource
from kpfeat_core.runtime import keep_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p


def ask():
    place = ctypes.c_void_p(libc.malloc(2**25))
    ctypes.memset(place, 1, 2**25)
    libc.free(place)


keep_memory()
for _ in range(20):  # until the first ones have found their places
    ask()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    ask()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def output_of(program: str, **environment: str) -> str:
    words, given = [sys.executable, '-c', program], {**os.environ, **environment}
    return subprocess.run(words, env=given, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc alone has mallopt')
def test_memory_of_one_image_is_used_for_the_next_unless_the_user_wants_otherwise() -> None:
    kept = output_of(FAULTS)
    given_back = output_of(FAULTS, MALLOC_MMAP_THRESHOLD_='1048576')
    assert int(kept) * 5 < int(given_back)


# Heaps after 12 threads at a time have asked for memory.
HEAPS = """
import ctypes, threading
from kpfeat_core.runtime import keep_memory

keep_memory()
barrier = threading.Barrier(12)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p


def ask():
    barrier.wait()
    libc.malloc(100_000)
    barrier.wait()


threads = [threading.Thread(target=ask) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(1, b'w'))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc alone has mallopt')
@pytest.mark.parametrize(('environment', 'most'), [({}, 4), ({'MALLOC_ARENA_MAX': '6'}, 6)])
def test_threads_share_few_heaps(environment, most) -> None:
    assert output_of(HEAPS, **environment).count('<heap ') == most


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
