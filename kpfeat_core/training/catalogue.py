"""The recipe of every model that can be trained."""

from .alike import AlikeRecipe
from .aslfeat import AslFeatRecipe
from .hardnet import HardNetRecipe
from .keynet import KeyNetRecipe
from .kp2d import Kp2dRecipe
from .magicpoint import MagicPointRecipe
from .recipe import Recipe
from .superpoint import SuperPointRecipe
from ..errors import ConfigError

RECIPES: dict[str, type[Recipe]] = {
    **{f'alike-{size}': AlikeRecipe for size in 'tsnl'},
    'aslfeat': AslFeatRecipe,
    'hardnet': HardNetRecipe,
    'keynet': KeyNetRecipe,
    'keynet-tiny': KeyNetRecipe,
    'kp2d': Kp2dRecipe,
    'magicpoint': MagicPointRecipe,
    'superpoint': SuperPointRecipe,
}


def recipe_class(model: str) -> type[Recipe]:
    """Return the recipe of a model; raises ConfigError where there is none."""
    if model not in RECIPES:
        raise ConfigError(f"'{model}' has no recipe; expected one of {', '.join(sorted(RECIPES))}")
    return RECIPES[model]
