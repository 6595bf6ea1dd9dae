"""Lightning Fabric on one device, or over the processes that torchrun started."""

import os
from typing import Any

import torch

from .config import TrainConfig
from ..errors import ConfigError, KpfeatError
from ..registry import check_device


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
        return Fabric(accelerator=device.type, devices=devices, **_arithmetic(config, device))
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy='ddp_find_unused_parameters_true',  # a loss may leave out a head in some steps
        **_arithmetic(config, device),
    )
    fabric.launch()
    return fabric


def leave(fabric: Any) -> None:
    """
    Let all processes end together.

    One that ends first takes with it what the others still talk to, and they abort.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        fabric.barrier()
        torch.distributed.destroy_process_group()


def _arithmetic(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Return the option of Fabric for the precision; batches are handed on as they are."""
    if config.precision == '32-true':
        return {'precision': config.precision}
    from lightning_fabric.plugins import MixedPrecision

    class Mixed(MixedPrecision):
        def convert_input(self, data: Any) -> Any:
            return data  # autocast converts what it must; Fabric refuses frozen dataclasses

    return {'plugins': [Mixed(config.precision, device.type)]}
