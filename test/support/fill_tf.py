"""Fixed values by the names of TensorFlow variables, and ASLFeat's variables under them."""

import zlib

from kpfeat_core.registry import build_extractor
import numpy as np

TF_NAMES = {'weight': 'kernel', 'running_mean': 'moving_mean', 'running_var': 'moving_variance'}
SCORED = ('conv1', 'conv3', 'conv6')


def filled(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fixed values of one variable, float32."""
    seed = zlib.crc32(name.encode()) & 0xFFFFFFFF
    noise = np.random.RandomState(seed).standard_normal(shape)
    if name.endswith('moving_variance'):
        value = 1 + np.abs(0.1 * noise)
    elif name.endswith('moving_mean'):
        value = 0.1 * noise
    elif name.endswith('instance_max'):
        value = 4 + np.abs(noise)
    elif '/ori/bias' in name:
        value = np.array([1, 0]) + 0.1 * noise
    elif 'deform_param' in name:
        factor = 0.3 / np.sqrt(max(np.prod(shape[:-1]), 1)) if name.endswith('kernel') else 0.1
        value = factor * noise
    elif name.endswith('kernel'):
        value = noise * np.sqrt(2 / np.prod(shape[:-1]))
    else:
        value = 0.05 * noise
    return np.asarray(value, np.float32)


def aslfeat_variables(deform: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the variables of a published ASLFeat checkpoint."""
    variables = {}
    for name, value in build_extractor('aslfeat', deform=deform).state_dict().items():
        *scope, last = name.split('.')
        shape = tuple(value.shape)
        if last == 'num_batches_tracked':
            continue
        if len(shape) == 4:
            shape = (*shape[2:], shape[1], shape[0])
        if len(scope) == 2 and scope[1] != 'bn':
            scope.insert(0, 'deform_param')
        if last == 'instance_max':
            scope.insert(0, 'tower')
        variables['/'.join([*scope, TF_NAMES.get(last, last)])] = shape
    return variables


def filled_aslfeat(deform: str) -> dict[str, np.ndarray]:
    """Return the fixed values of all variables of ASLFeat."""
    return {name: filled(name, shape) for name, shape in aslfeat_variables(deform).items()}
