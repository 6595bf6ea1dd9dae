"""Lightning Fabric on one device, or over the processes that torchrun started."""

import os
from typing import Any

from ..errors import ConfigError, KpfeatError
from ..registry import check_device
from .config import TrainConfig


def make_fabric(config: TrainConfig) -> Any:
    """Return Lightning Fabric on one device, or as one of the processes that torchrun started."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise KpfeatError("training needs Lightning Fabric: pip install 'kpfeat[train]'") from None
    device = check_device(config.device)
    world, local = (int(os.environ.get(k, 1)) for k in ('WORLD_SIZE', 'LOCAL_WORLD_SIZE'))
    if config.batch_size % world:
        raise ConfigError(
            f'batch_size is {config.batch_size}, expected a multiple of {world}, the processes'
        )
    if world == 1:
        devices = 1 if device.index is None or device.type == 'cpu' else [device.index]
        return Fabric(accelerator=device.type, devices=devices, precision=config.precision)
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy='ddp_find_unused_parameters_true',  # a loss may leave out a head in some steps
        precision=config.precision,
    )
    fabric.launch()
    return fabric
