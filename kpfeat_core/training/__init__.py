"""Training: one engine, one small recipe for each system; help texts import no torch."""

from dataclasses import dataclass
import importlib

from ..config import option
from ..errors import ConfigError
from ..runtime import lazy_face

__all__ = ['RECIPES', 'TrainConfig', 'recipe_class', 'train']

# Module and class of each model's recipe; importing one imports torch.
RECIPES = {
    **{f'alike-{size}': ('alike', 'AlikeRecipe') for size in 'tsnl'},
    'aslfeat': ('aslfeat', 'AslFeatRecipe'),
    'hardnet': ('keynet', 'HardNetRecipe'),
    'keynet': ('keynet', 'KeyNetRecipe'),
    'keynet-tiny': ('keynet', 'KeyNetRecipe'),
    'kp2d': ('kp2d', 'Kp2dRecipe'),
    'magicpoint': ('magicpoint', 'MagicPointRecipe'),
    'superpoint': ('superpoint', 'SuperPointRecipe'),
}


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train, and what is written when."""

    steps: int = option(60000, 'optimizer steps in all; 0 validates `start` alone', low=0)
    batch_size: int = option(8, 'pairs in a step', low=1)
    learning_rate: float = option(2e-3, 'learning rate after the warm-up', 0.0, 1.0)
    warmup_steps: int = option(300, 'steps of linear warm-up', low=0)
    decay_share: float = option(0.25, 'last share of the run, in which the rate falls to 0', 0, 1)
    weight_decay: float = option(1e-4, 'AdamW weight decay', 0.0, 1.0)
    ema: float = option(0.999, 'decay of the average of weights that is validated and kept', 0, 1)
    clip_norm: float = option(1.0, 'largest norm of the gradient', low=0.0)
    start: str = option('', 'weight file to begin with; without one the weights are random')
    seed: int = option(0, 'every random draw follows from this and the step', low=0)
    precision: str = option('32-true', 'arithmetic', choices=('32-true', 'bf16-mixed', '16-mixed'))
    device: str = option('auto', 'cpu, cuda or auto')
    threads: int = option(-1, 'CPU threads; -1 takes all', low=-1)
    bank_side: int = option(480, 'photographs are kept with this long side in memory', low=64)
    max_images: int = option(-1, 'use at most this many photographs; -1 all', low=-1)
    kind_weights: str = option(
        '', 'how often kinds in manifest.csv are drawn, such as photo=2,texture=1'
    )
    validation_share: float = option(
        0.04, 'share of photographs held out for curves, one at least', 0.0, 0.5
    )
    validate_every: int = option(1000, 'steps between validations', low=1)
    validation_pairs: int = option(48, 'pairs in a validation', low=1)
    checkpoint_seconds: int = option(120, 'seconds between checkpoints', low=1)
    log_every: int = option(50, 'steps between lines of the log', low=1)


def recipe_class(model: str) -> type:
    """Return the recipe of a model; raises ConfigError where there is none."""
    if model not in RECIPES:
        raise ConfigError(f"'{model}' has no recipe; expected one of {', '.join(sorted(RECIPES))}")
    module, name = RECIPES[model]
    return getattr(importlib.import_module(f'.{module}', __name__), name)


__getattr__ = lazy_face(__name__, {'train': 'engine'})
