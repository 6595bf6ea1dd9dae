"""Weight files: find, read, check and write them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch
from torch import nn, Tensor

from .checkpoints import published_for, some_names
from ..errors import WeightsError
from ..io import replacing

SCALE = '.scale'  # ending of the name of the steps of a matrix that is stored as int8
LEVELS = 127  # of int8, on either side of zero
FORMAT_VERSION = 1
ENVIRONMENT = 'KPFEAT_WEIGHTS'
BUNDLED = Path(__file__).parent
ROTATION = 'rotation'  # name of the bundled weights that stand any roll of the camera
OWN_NOTES = ('format', 'format_version', 'model', 'architecture', 'structure')


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Return the same with matrices (O, …) as int8 and, under `<name>.scale`, their steps (O,).

    A number is off by half a step at most, 1/254 of the largest of its output channel. Vectors
    (biases, batch statistics) stay as they are.
    """
    stored: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.ndim < 2 or not value.is_floating_point():
            stored[name] = value
            continue
        rows = value.float().flatten(1)
        scale = rows.abs().amax(1) / LEVELS
        steps = rows / scale.where(scale > 0, 1.0)[:, None]
        stored[name] = steps.round().to(torch.int8).reshape(value.shape)
        stored[name + SCALE] = scale
    return stored


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `quantize` was given, up to rounding; others as they are."""
    values = dict(tensors)
    for name, value in tensors.items():
        scale = tensors.get(name + SCALE)
        if value.dtype != torch.int8 or scale is None or scale.shape != value.shape[:1]:
            continue  # refused where it is loaded: a matrix must not be of whole numbers
        del values[name + SCALE]
        values[name] = (value.flatten(1) * scale[:, None]).reshape(value.shape)
    return values


def candidate_weights(model: str) -> list[tuple[str, Path]]:
    """Return (source, path) of the places where a model's weights are looked for, in order."""
    name = f'{model}.safetensors'
    places = []
    value = os.environ.get(ENVIRONMENT, '')
    if value:
        path = Path(value).expanduser()
        if not path.exists():
            raise WeightsError(
                f"{ENVIRONMENT} is '{value}', which does not exist; expected a folder with "
                f'{name}, or a weight file'
            )
        if path.is_dir() or not _is_of_another(path, model):
            places.append((f'${ENVIRONMENT}', path / name if path.is_dir() else path))
    places.append(('bundled', BUNDLED / name))
    return places


def _is_of_another(path: Path, submodule: str) -> bool:
    """Return whether a file is not of this submodule but of the model that needs it."""
    from ..registry import SUBMODULES

    if submodule not in SUBMODULES:
        return False
    try:
        return read_metadata(path).get('model', submodule) != submodule
    except WeightsError:  # said where it is loaded
        return False


def find_weights(model: str, weights: Path | str = '') -> Path:
    """
    Find the weight file of a model; raises WeightsError that names every place looked in.

    weights: a file, or a folder with <model>.safetensors, or 'rotation': the bundled ones that
    stand any roll of the camera. '' takes $KPFEAT_WEIGHTS (a folder or a file) where it has the
    model, else the weights that come with the package, which are for upright cameras.
    """
    try:
        if str(weights) == ROTATION:
            return _find_rotation(model)
        if str(weights):
            path = Path(os.path.expanduser(weights))  # Path's own raises for unknown users
            path = path / f'{model}.safetensors' if path.is_dir() else path
            if not path.is_file():
                raise WeightsError(
                    f"there is no weight file '{path}' for model {model}; expected a file, a "
                    f"folder with {model}.safetensors, or '{ROTATION}'"
                )
            return path
        places = candidate_weights(model)
        for _, path in places:
            if path.is_file():
                return path
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise WeightsError(f'cannot look for weights of model {model}: {error}') from error
    looked = ', '.join(f"'{path}' ({source})" for source, path in places)
    unset = '' if len(places) > 1 else f'; {ENVIRONMENT} is not set'
    raise WeightsError(
        f'no weights for model {model}: none come with this kpfeat, and looked for {looked}'
        f'{unset}. {_remedy(model)}'
    )


def _find_rotation(model: str) -> Path:
    path = BUNDLED / f'{model}-{ROTATION}.safetensors'
    if path.is_file():
        return path
    ending = f'-{ROTATION}.safetensors'
    others = sorted(path.name.removesuffix(ending) for path in BUNDLED.glob(f'*{ending}'))
    raise WeightsError(
        f"model {model} has no bundled weights '{ROTATION}', expected one of {', '.join(others)}; "
        'leave the weights out for the bundled ones (its card says which roll they stand), or '
        f"write './{ROTATION}' for a file of that name"
    )


def _remedy(model: str) -> str:
    """Return how a model without weights gets some."""
    known = published_for(model)
    if not known:
        return 'Pass a weight file of yours, or make one with `kpfeat train`'
    first = known[0]
    return (
        f'Convert a published checkpoint, such as {first.file} ({first.licence}) from '
        f'{first.source}: `{first.command}`, and pass that file as weights; `kpfeat weights list` '
        'shows all of them, and `kpfeat train` makes your own'
    )


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    Read the tensors and the metadata of a safetensors file; raises WeightsError.

    Those that were stored as int8 come back as float32.
    """
    with _opened(path) as file:
        names = file.keys()  # the file itself is not iterable in every release
        tensors = {name: file.get_tensor(name) for name in names}
        return dequantize(tensors), file.metadata() or {}


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the metadata of a safetensors file alone; raises WeightsError."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    if not Path(path).is_file():
        raise WeightsError(f"there is no weight file '{path}'")
    try:
        with safe_open(path, 'pt') as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = getattr(error, 'strerror', '') or 'it is cut off, damaged or of another kind'
        raise WeightsError(
            f"'{path}' is not a complete safetensors file: {reason}; copy it again, or convert "
            'a .pth checkpoint with `kpfeat weights import`'
        ) from error


def load_weights(module: nn.Module, path: Path | str) -> dict[str, str]:
    """
    Copy the weights of a file into a module and return the file's metadata.

    Names and shapes must be exactly the module's; half precision becomes the module's own type.
    Raises WeightsError if the file is broken, holds NaN, or was made for another model.
    """
    tensors, metadata = read_weights(path)
    _check_metadata(module, metadata, path)
    check_state(module, tensors, str(path), _conversion(module, path, metadata))
    _network(module).load_state_dict(tensors)
    return metadata


def read_architecture(path: Path | str) -> dict[str, str]:
    """Return the options that shape the network of a weight file, empty where it has none."""
    return _parse_architecture(read_metadata(path), path)


def _parse_architecture(metadata: Mapping[str, str], path: Path | str) -> dict[str, str]:
    try:
        architecture = json.loads(metadata.get('architecture', metadata.get('structure', '{}')))
    except ValueError:
        architecture = None
    if not isinstance(architecture, dict) or not all(
        isinstance(v, str) for v in architecture.values()
    ):
        raise WeightsError(f"'{path}' has a damaged note of its architecture; copy it again")
    return architecture


def _network(module: nn.Module) -> nn.Module:
    """Return the part of an extractor whose tensors its weight file holds."""
    return getattr(module, 'network', module)


def save_weights(
    module: nn.Module,
    path: Path | str,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """
    Write the weights of a module to a safetensors file, all of it or nothing.

    metadata: licence, training command and the like, kept as text. dtype: torch.float16 halves
    the file, torch.int8 halves it again (`quantize`); vectors (biases, batch statistics) stay
    float32, where the range matters.

    Raises WeightsError if a weight is not finite in that type.
    """
    tensors = {}
    for name, value in _network(module).state_dict().items():
        narrow = dtype.is_floating_point and value.is_floating_point() and value.ndim > 1
        kind = dtype if narrow else value.dtype
        tensors[name] = value.detach().to('cpu', kind).clone().contiguous()
    _check_finite(tensors, str(path))
    if dtype == torch.int8:
        tensors = quantize(tensors)
    texts = {'format': 'kpfeat', 'format_version': FORMAT_VERSION, 'model': _name(module)}
    architecture = {
        name: getattr(module.config, name) for name in getattr(module, 'architecture', ())
    }
    if architecture:
        texts['architecture'] = json.dumps(architecture)
    texts |= metadata or {}
    with replacing(path) as temporary:
        # not save_file, whose files only their owner may read
        temporary.write_bytes(save(tensors, {key: str(value) for key, value in texts.items()}))


def check_state(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, advice: str = ''
) -> None:
    """
    Raise WeightsError if the tensors are not exactly this module's, or are not finite.

    advice: the remedy for tensors of other names and shapes, put at the end of the message.
    """
    differences = _differences(module, tensors)
    if differences:
        raise WeightsError(
            f"'{source}' does not fit model {_name(module)}: "
            f'{differences}{_fitting(tensors)}{advice}'
        )
    _check_finite(tensors, source)


def _conversion(module: nn.Module, path: Path | str, metadata: Mapping[str, str]) -> str:
    """Return how to bring a file of this very model up to date; '' for other files."""
    name = _name(module)
    if metadata.get('model') != name:
        return ''
    return (
        f'. Its metadata name model {name}: if an earlier version of kpfeat wrote it, '
        f"`kpfeat weights import '{path}' --model {name} --out NEW.safetensors` converts it"
    )


def _differences(module: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """List tensors that are missing, unknown or of another shape or type; '' for none."""
    expected = _network(module).state_dict()
    shapes = [
        f'{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}'
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    types = [
        f'{key} of {tensors[key].dtype} instead of {value.dtype}'
        for key, value in expected.items()
        if key in tensors and value.is_floating_point() > tensors[key].is_floating_point()
    ]
    parts = (
        ('it lacks', [key for key in expected if key not in tensors]),
        ('it has unknown', [key for key in tensors if key not in expected]),
        ('it has', shapes),
        ('it has', types),  # quantised weights are no weights without their scale
    )
    return '; '.join(f'{words} {some_names(names)}' for words, names in parts if names)


def _fitting(tensors: Mapping[str, Tensor]) -> str:
    """Name the models that these tensors do fit, as a hint."""
    from ..registry import build_network, network_names

    names = [name for name in network_names() if not _differences(build_network(name), tensors)]
    return f'. It fits {" and ".join(names)}' if names else ''


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    broken = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise WeightsError(
            f"'{source}': {some_names(broken)} hold NaN or infinite numbers; the training that "
            'made them diverged, or the type is too small for them'
        )


def _check_metadata(module: nn.Module, metadata: Mapping[str, str], path: Path | str) -> None:
    model, name = metadata.get('model', ''), _name(module)
    if model and model != name:
        raise WeightsError(
            f"'{path}' holds weights of model {model}, expected model {name}; choose model "
            f'{model}, or give a file of {name}'
        )
    for key, value in _parse_architecture(metadata, path).items():
        own = getattr(getattr(module, 'config', None), key, value)
        if own != value:
            raise WeightsError(
                f"'{path}' was made with {key}='{value}', expected {key}='{own}'; leave {key} "
                'out, or give a file of that'
            )
    version = metadata.get('format_version', str(FORMAT_VERSION))
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise WeightsError(
            f"'{path}' has format version {version}, this kpfeat reads up to {FORMAT_VERSION}; "
            'update kpfeat'
        )


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _name(module: nn.Module) -> str:
    return getattr(module, 'name', type(module).__name__)
