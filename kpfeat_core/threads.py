"""How a process that runs networks uses cores and memory; to be said before torch is loaded."""

from contextlib import suppress
import ctypes
import os

# Turns that a waiting thread of GNU's OpenMP makes before it sleeps; 300,000 if left alone.
SPINS = '2000'
# From this size on glibc asks the system for each block, and gives it back at once: maps of a
# network at 1280x720 are smaller. Larger ones would leave large holes.
MAPPED_BYTES = 2**26
KEPT_BYTES = 2**29  # that are free and stay with the process
# Heaps that the threads share: more keep more, each what its threads needed at most. Nodes that
# were loaded and unloaded 15 times grew the process by 24 MiB so, and by 150 with glibc's own 8 a
# core, at the same speed.
ARENAS = 4
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # names of mallopt


def share_cores() -> None:
    """
    Let waiting threads of OpenMP sleep soon, unless the environment says how they wait.

    Left alone they spin for milliseconds, which makes images take up to twenty times as long on
    cores that other programs use too. Those that sleep at once make small networks take 1.5 times
    as long on idle cores: they are woken for every layer.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
        os.environ.setdefault('GOMP_SPINCOUNT', SPINS)


def keep_memory() -> None:
    """
    Let glibc use the memory of one image for the next, unless the environment says otherwise.

    Left alone it gives each map of a network back and asks for it again, and the system clears
    its pages every time: a quarter of the work of a small network on a CPU, a third of training.
    What is kept goes back with `malloc_trim`.
    """
    said = {'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'GLIBC_TUNABLES'}
    if said & os.environ.keys():
        return
    with suppress(AttributeError, OSError, TypeError):  # another libc has no such function
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        if 'MALLOC_ARENA_MAX' not in os.environ:
            libc.mallopt(M_ARENA_MAX, ARENAS)
