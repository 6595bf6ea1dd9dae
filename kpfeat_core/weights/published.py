"""Checkpoints that the authors of the five systems published, and how they are imported."""

from dataclasses import dataclass

NON_COMMERCIAL = 'research only: no commercial use, no redistribution'
ALIKE = 'https://github.com/Shiaoming/ALIKE/tree/main/models'
KEYNET_TF = 'https://github.com/axelBarroso/Key.Net/tree/master/keyNet/pretrained_nets'
KP2D = 'https://tri-ml-public.s3.amazonaws.com/github/kp2d/models/pretrained_models.tar.gz'


@dataclass(frozen=True)
class Published:
    """
    One published checkpoint: the model that it is for, its file, its licence and its place.

    settings: for `--set`, where the file itself does not show them.
    """

    model: str
    file: str
    licence: str
    source: str
    settings: str = ''

    @property
    def command(self) -> str:
        """Return the command that turns the file into weights of ours."""
        chosen = f' --set {self.settings}' if self.settings else ''
        return f'kpfeat weights import {self.file} --model {self.model}{chosen} --out FILE'


PUBLISHED = (
    *(Published(f'alike-{x}', f'alike-{x}.pth', 'BSD-3-Clause', ALIKE) for x in 'tsnl'),
    Published(
        'aslfeat',
        'model.ckpt-380000.index',
        'MIT code; nothing is said of the weights',
        'https://github.com/lzx551402/ASLFeat (the link in its README)',
    ),
    Published(
        'hardnet',
        'HardNet++.pth',
        'MIT',
        'https://github.com/DagnyT/hardnet/tree/master/pretrained',
    ),
    Published(
        'keynet',
        'keynet_pytorch.pth',
        'MIT',
        'https://github.com/axelBarroso/Key.Net-Pytorch/tree/main/model/weights',
    ),
    Published('keynet', 'model--1651.index', 'BSD-3-Clause-Clear', KEYNET_TF),
    *(Published('kp2d', f'v{n}.ckpt', 'MIT', KP2D, f'version=v{n}') for n in (4, 3, 2, 1, 0)),
    *(
        Published(
            model,
            'superpoint_v6_from_tf.pth',
            'MIT',
            'https://github.com/rpautrat/SuperPoint/tree/master/weights',
        )
        for model in ('superpoint', 'magicpoint')
    ),
    *(
        Published(
            model,
            'superpoint_v1.pth',
            NON_COMMERCIAL,
            'https://github.com/magicleap/SuperPointPretrainedNetwork',
        )
        for model in ('superpoint', 'magicpoint')
    ),
)


def published_for(model: str) -> list[Published]:
    """Return the published checkpoints that can become weights of a model."""
    return [item for item in PUBLISHED if item.model == model]
