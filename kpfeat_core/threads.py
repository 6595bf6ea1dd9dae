"""How the threads of torch wait for each other; torch reads it when it is loaded."""

import os

# Turns that a waiting thread of GNU's OpenMP makes before it sleeps; 300,000 if left alone.
SPINS = '2000'


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
