"""Where a stage runs: one process or several, on one machine or several."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from .errors import TrainingError

Strategy = Literal["auto", "ddp"]
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Processes that train together, one for each device."""

    device: str = "auto"
    """auto, cpu, cuda, …: as Lightning names accelerators."""
    devices: int = 1
    """Of each machine; 0: all that it has."""
    nodes: int = 1
    """Machines. Several are started by `torchrun`, whose options then decide this and `devices`."""
    strategy: Strategy = "auto"
    """ddp: copies of the network that average their gradients; auto: that where there are several processes."""


def open_fabric(placement: Placement) -> Fabric:
    """Join the processes of `placement`; the first one starts the others unless a launcher did.

    Raises `TrainingError` where that many devices are not there.
    """
    devices, nodes = _launched() or (placement.devices or "auto", placement.nodes)
    several = devices != 1 or nodes != 1 or placement.strategy == "ddp"
    strategy = DDPStrategy(timeout=_TIMEOUT) if several else "auto"
    try:
        # Not Fabric's own mixed precision: it rounds the batch to bf16 too, which is the noise floor of a mel at low
        # sigma.
        fabric = Fabric(
            accelerator=placement.device, devices=devices, num_nodes=nodes, strategy=strategy, precision="32-true"
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"cannot train on {devices} devices ({placement.device}) of each of {nodes} machines: {error}\n"
            f"hint: this machine has {torch.cuda.device_count()} CUDA devices; --device cpu --devices 2 works "
            "anywhere, and several machines need torchrun on each of them"
        ) from None
    return fabric


def own_device(accelerator: str) -> torch.device:
    """The device that this process will train on, as far as its environment tells; before a launch the first one."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def is_first_process() -> bool:
    """Whether this process speaks for all, as far as its environment tells; true before a launch."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _launched() -> tuple[int, int] | None:
    """Devices of each machine and machines as `torchrun` set them, if it started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local
