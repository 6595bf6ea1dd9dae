"""Write the gradient of one training step: `python gradient.py FILE`, alone or under torchrun."""

import sys

from kpfeat_core.data.homography_pairs import make_pairs, PairConfig
from kpfeat_core.data.image_folder import ImageBank
from kpfeat_core.data.photometric import PhotometricConfig
from kpfeat_core.registry import build_extractor
from kpfeat_core.training import TrainConfig
from kpfeat_core.training.alike import AlikeLossConfig, AlikeRecipe
from kpfeat_core.training.runtime import leave, make_fabric
import torch


def main(path: str) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(TrainConfig(batch_size=4, device='cpu'))
    torch.manual_seed(0)
    extractor = build_extractor('alike-t')
    config = AlikeLossConfig(detected=20, random=0, stride=1)
    recipe = fabric.setup_module(AlikeRecipe(extractor, config))
    recipe.eval()  # statistics of a batch are each process's own on a CPU
    levels = [torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8) for side in (128, 64)]
    bank = ImageBank(tuple(levels), torch.full((3, 2), 128.0), torch.ones(3), ('a', 'b', 'c'))
    generator = torch.Generator().manual_seed(0)
    pairs = make_pairs(bank, 4, PairConfig(view_size=64), PhotometricConfig(), generator)
    pairs = pairs.part(fabric.global_rank, fabric.world_size)
    fabric.backward(recipe(pairs, generator)['total'])
    if fabric.is_global_zero:
        torch.save({name: p.grad for name, p in extractor.named_parameters()}, path)
    leave(fabric)


if __name__ == '__main__':
    main(sys.argv[1])
