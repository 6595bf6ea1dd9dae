"""Training: one engine, one small recipe for each system."""

import importlib
from typing import TYPE_CHECKING

from .options import TrainConfig
from ..errors import ConfigError
from ..runtime import lazy_face

if TYPE_CHECKING:
    from .recipe import Recipe

__all__ = ['RECIPES', 'TrainConfig', 'recipe_class', 'train']

# Module and class of each model's recipe; importing one imports torch.
RECIPES = {
    **{f'alike-{size}': ('alike', 'AlikeRecipe') for size in 'tsnl'},
    'aslfeat': ('aslfeat', 'AslFeatRecipe'),
    'hardnet': ('hardnet', 'HardNetRecipe'),
    'keynet': ('keynet', 'KeyNetRecipe'),
    'keynet-tiny': ('keynet', 'KeyNetRecipe'),
    'kp2d': ('kp2d', 'Kp2dRecipe'),
    'magicpoint': ('magicpoint', 'MagicPointRecipe'),
    'superpoint': ('superpoint', 'SuperPointRecipe'),
}


def recipe_class(model: str) -> 'type[Recipe]':
    """Return the recipe of a model; raises ConfigError where there is none."""
    if model not in RECIPES:
        raise ConfigError(f"'{model}' has no recipe; expected one of {', '.join(sorted(RECIPES))}")
    module, name = RECIPES[model]
    return getattr(importlib.import_module(f'.{module}', __name__), name)


__getattr__ = lazy_face(__name__, {'train': 'engine'})
