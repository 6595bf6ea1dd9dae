"""What differs between the systems in a training run; the engine does the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TYPE_CHECKING

import numpy as np
from torch import Generator, nn, Tensor

from .validation import MAX_NUM_KEYPOINTS, validate
from ..axes import Float
from ..data.depth_pairs import make_depth_pairs
from ..data.homography_pairs import make_pairs
from ..data.image_folder import ImageBank
from ..data.posed_scenes import find_scenes
from ..data.scene_bank import SceneBank
from ..data.view_pairs import ViewPairs
from ..errors import DataError
from ..image import channels_last, match_channels
from ..models.base import DenseMaps, Extractor
from ..registry import build_extractor
from ..weights.files import load_weights, sha256

if TYPE_CHECKING:
    from .options import Options


class Recipe(nn.Module):
    """
    The losses of one system: `forward` is what the engine optimizes.

    A subclass sets `loss_class` and defines `forward`; the others where the usual is not right.
    defaults: options of a run whose default differs. build_options: options of the extractor.
    takes_scenes: whether the losses ask a batch where points lie (ViewPairs), so that it may come
    from photographs with depth and poses as well.
    """

    loss_class: ClassVar[type]
    defaults: ClassVar[Mapping[str, Any]] = {}
    build_options: ClassVar[Mapping[str, Any]] = {}
    takes_scenes: ClassVar[bool] = False

    def __init__(self, extractor: nn.Module, config: Any) -> None:
        super().__init__()
        self.extractor = extractor
        self.config = config

    @classmethod
    def build(cls, model: str, options: 'Options') -> nn.Module:
        """Build what is trained, with random weights: an extractor, or what belongs to one."""
        return build_extractor(model, **cls.build_options)

    @classmethod
    def begin(cls, extractor: nn.Module, path: Path | str) -> str:
        """Load the weights that a run begins with, and say what; raises WeightsError."""
        metadata = load_weights(extractor, path)
        steps = f', trained for {metadata["steps"]} steps' if 'steps' in metadata else ''
        return f"begins with the weights in '{path}' (SHA-256 {sha256(path)[:16]}){steps}"

    @classmethod
    def check(cls, options: 'Options', extractor: nn.Module) -> None:
        """Raise ConfigError where options do not suit each other or the network."""
        options.check_view_size(extractor.stride)

    @classmethod
    def load(cls, folder: Path, options: 'Options') -> tuple[Any, Any]:
        """Return the material for training and for validation; raises DataError."""
        from .datasets import load_photographs, load_posed_photographs

        scenes = find_scenes(folder)
        if scenes and not cls.takes_scenes:
            raise DataError(
                f"'{folder}' holds scenes with depth and poses, which this model does not train "
                'on; expected photographs alone, such as the images folder of a scene'
            )
        if scenes:
            return load_posed_photographs(folder, scenes, options)
        return load_photographs(folder, options.train)

    @classmethod
    def image_names(cls, material: Any) -> Sequence[str]:
        """Return the names of the images, by which the material of a run is told from another."""
        return (material.images if isinstance(material, SceneBank) else material).names

    @classmethod
    def draw(
        cls, material: ImageBank | SceneBank, count: int, options: 'Options', generator: Generator
    ) -> Any:
        """Make a batch of `count` from the material; all that is random comes from generator."""
        if isinstance(material, SceneBank):
            return make_depth_pairs(
                material,
                count,
                options.pairs,
                options.depth.rules,
                options.photometric,
                generator,
            )
        return make_pairs(material, count, options.pairs, options.photometric, generator)

    @classmethod
    def picture(cls, batch: Any) -> np.ndarray:
        """Draw some of a batch, to be looked at before anything is trained; (H, W, 3) RGB."""
        from .pictures import draw_pairs

        return draw_pairs(batch)

    def see(self, images: Float[Tensor, 'b 3 h w']) -> DenseMaps:
        """Run the network on RGB views whose sides divide by its stride."""
        images = self.extractor.prepare(match_channels(images, self.extractor.channels))
        return self.extractor(channels_last(images))

    def forward(self, batch: Any, generator: Generator) -> dict[str, Tensor]:
        """Return the loss `total` and its parts, each averaged over the batch."""
        raise NotImplementedError

    @classmethod
    def validation_keypoints(cls, batch: Any) -> int:
        """Return how many keypoints of a held-out view are matched."""
        return MAX_NUM_KEYPOINTS

    @classmethod
    def validate(cls, extractor: Extractor, batch: ViewPairs) -> dict[str, float]:
        """Measure what is to be improved; `score` says which weights are the best."""
        numbers = validate(extractor, batch, cls.validation_keypoints(batch))
        return numbers | {'score': numbers['mma3'] * numbers['repeatability']}

    @classmethod
    def examples(cls, extractor: Extractor, batch: Any) -> np.ndarray:
        """Draw what the extractor makes of some of what is held out; (H, W, 3) RGB."""
        from .pictures import draw_matched_pairs

        return draw_matched_pairs(extractor, batch, cls.validation_keypoints(batch))
