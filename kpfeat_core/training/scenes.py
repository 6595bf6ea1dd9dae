"""The scenes of a run: those to train on, and those held out for its curves."""

from collections.abc import Sequence
from dataclasses import replace
import hashlib
from pathlib import Path

from .options import Options
from ..data.posed_scenes import PosedScene, read_scene
from ..data.scene_bank import load_scenes, SceneBank
from ..errors import DataError


def load_posed_photographs(
    folder: Path, scenes: Sequence[Path], options: Options
) -> tuple[SceneBank, SceneBank]:
    """
    Return the banks of training and validation scenes; raises DataError.

    Whole scenes are held out, at least one, by a hash of their folders: the same on every run.
    Of max_images, each scene may use an equal share, its first ones.
    """
    config = options.train
    if len(scenes) < 2:
        raise DataError(
            f"'{folder}' holds one scene with depth and poses, expected two at least: one is held "
            'out for validation'
        )

    def order(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()

    shuffled = sorted(scenes, key=order)
    held_out = max(1, round(config.validation_share * len(scenes)))
    parts = []
    for own in (shuffled[held_out:], shuffled[:held_out]):
        read = [read_scene(path) for path in own]
        if config.max_images >= 0:
            read = [_first(scene, max(2, config.max_images // len(own))) for scene in read]
        parts.append(load_scenes(read, config.bank_side, options.depth))
    return tuple(parts)


def _first(scene: PosedScene, count: int) -> PosedScene:
    """Keep the first images of a scene."""
    pairs = scene.pairs and {pair: v for pair, v in scene.pairs.items() if max(pair) < count}
    return replace(
        scene,
        names=scene.names[:count],
        intrinsics=scene.intrinsics[:count],
        poses=scene.poses[:count],
        pairs=pairs,
    )
