"""Small benchmarks, for tests."""

from kpfeat_core.benchmarking import systems
from kpfeat_core.benchmarking.config import BenchmarkConfig

SMALL = BenchmarkConfig(size='128x96', max_num_keypoints=50, rounds=2, warm_up=1, threads=1)


def spec(name, **options):
    return systems.SystemSpec(name, options={'max_num_keypoints': 50, **options})
