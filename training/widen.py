"""
Make weights of a larger ALIKE that compute what a smaller one does, to begin its training with.

    python training/widen.py alike-t.safetensors --model alike-n --out start.safetensors
    kpfeat train alike-n --start start.safetensors --data PHOTOGRAPHS --out runs/alike-n

Channels are copied, and what reads them takes unequal shares of the copies; noise on the copies'
kernels lets them part. Chen, Goodfellow and Shlens, "Net2Net", ICLR 2016. With --noise 0 scores
and similarities of descriptors stay what they were.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

from kpfeat_core.errors import ConfigError, KpfeatError
from kpfeat_core.models.alike import Alike, SIZES
from kpfeat_core.weights.files import load_weights, read_weights, save_weights
import torch
from torch import Tensor
import typer

LEVELS = 4


class Copies(NamedTuple):
    """
    How the channels of a wider layer come from those of a narrower one.

    source (N,): which channel each one copies; share (N,): how much of it a reader takes, 1 in all
    for each source; fresh (N,): which are not the first copy.
    """

    source: Tensor
    share: Tensor
    fresh: Tensor

    @classmethod
    def sample(cls, narrow: int, wide: int, generator: torch.Generator) -> 'Copies':
        """Let `wide` channels copy `narrow` ones in turn."""
        source = torch.arange(wide) % narrow
        weight = 0.3 + 0.4 * torch.rand(wide, generator=generator)
        total = torch.zeros(narrow).index_add(0, source, weight)
        return cls(source, weight / total[source], torch.arange(wide) >= narrow)

    @classmethod
    def join(cls, parts: list['Copies'], narrow: int) -> 'Copies':
        """Put groups one behind the other, each of which copies `narrow` channels."""
        source = torch.cat([part.source + i * narrow for i, part in enumerate(parts)])
        shares, fresh = (torch.cat([getattr(p, name) for p in parts]) for name in cls._fields[1:])
        return cls(source, shares, fresh)

    def unit(self) -> Tensor:
        """Return (N,), the factors with which copies keep the dot products of the sources."""
        return self.source.bincount()[self.source].float().rsqrt()


def widen(narrow: Alike, model: str, noise: float = 0.1, seed: int = 0) -> Alike:
    """
    Return a larger ALIKE with the function of a smaller one that has a single head.

    noise: standard deviation of what is added to the kernels of copies, as a share of the layer's
    own. Raises ConfigError unless every layer of `model` is at least as wide.
    """
    wide, generator = Alike(model), torch.Generator().manual_seed(seed)
    _check(narrow, wide)
    old, new = narrow.state_dict(), {}

    def copy(layer: str, outputs: Copies, inputs: Copies | None = None) -> None:
        for key in [k for k in old if k.startswith(f'{layer}.')]:
            value = old[key]
            if value.ndim:  # all but BatchNorm's count of batches
                value = value[outputs.source]
            if value.ndim == 4 and inputs is not None:
                value = value[:, inputs.source] * inputs.share[:, None, None]
            if value.ndim == 4:
                drawn = noise * value.std() * torch.randn(value.shape, generator=generator)
                value = value + drawn * outputs.fresh[:, None, None, None]
            new[key] = value

    quarter, quarters, inputs = narrow.descriptor_dim // LEVELS, [], None
    for i in range(LEVELS):
        block, channels = f'block{i + 1}', (narrow.size.channels[i], wide.size.channels[i])
        inner, outer = (Copies.sample(*channels, generator) for _ in range(2))
        for layer in ('conv1', 'bn1'):
            copy(f'{block}.{layer}', inner, inputs)
        for layer in ('conv2', 'bn2'):
            copy(f'{block}.{layer}', outer, inner)
        copy(f'{block}.downsample', outer, inputs)
        inputs = outer
        quarters.append(Copies.sample(quarter, wide.descriptor_dim // LEVELS, generator))
        copy(f'conv{i + 1}', quarters[-1], outer)

    joined = Copies.join(quarters, quarter)
    if wide.convhead1 is not None:  # what it reads is not negative: to pass it on changes nothing
        hidden = Copies.sample(narrow.descriptor_dim, wide.descriptor_dim, generator)
        passed = joined.share * (hidden.source[:, None] == joined.source)
        drawn = noise * passed.std() * torch.randn(passed.shape, generator=generator)
        new['convhead1.weight'] = (passed + drawn * hidden.fresh[:, None])[..., None, None]
        joined = hidden
    *_, score = head = old['convhead2.weight']
    described = Copies.sample(narrow.descriptor_dim, wide.descriptor_dim, generator)
    rows = head[described.source] * described.unit()[:, None, None, None]
    head = torch.cat([rows, score[None]])[:, joined.source] * joined.share[:, None, None]
    new['convhead2.weight'] = head
    wide.load_state_dict(new)
    return wide


def _check(narrow: Alike, wide: Alike) -> None:
    sizes = [(*m.size.channels, m.descriptor_dim) for m in (narrow, wide)]
    if not narrow.size.single_head or any(a > b for a, b in zip(*sizes, strict=True)):
        raise ConfigError(
            f'{narrow.name} has channels and descriptors of {sizes[0]}, {wide.name} of '
            f'{sizes[1]}; expected a single head there, and at least as many everywhere here'
        )


def main(
    weights: Annotated[Path, typer.Argument(help='of the smaller ALIKE')],
    model: Annotated[str, typer.Option(help=f'the larger one, of {", ".join(SIZES)}')],
    out: Annotated[Path, typer.Option(help='weight file to write')],
    noise: Annotated[float, typer.Option(min=0.0, help='on the kernels of copies')] = 0.1,
    seed: Annotated[int, typer.Option(help='of shares and noise')] = 0,
) -> None:
    """Widen the weights of a smaller ALIKE."""
    try:
        name = read_weights(weights)[1].get('model', '')
        for given in (name, model):
            if given not in SIZES:
                raise ConfigError(f"'{given}' is no ALIKE; expected one of {', '.join(SIZES)}")
        narrow = Alike(name)
        load_weights(narrow, weights)
        save_weights(widen(narrow, model, noise, seed), out, {'model': model})
    except KpfeatError as error:
        raise SystemExit(f'widen.py: {error}') from error
    print(f'{out}: {model} that begins where {name} ends')


if __name__ == '__main__':
    typer.run(main)
