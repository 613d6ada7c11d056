"""Devices and processes of a stage, and the precision of its matrix products."""

import atexit
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from ...runtime.providers.openvino import isa_limit
from ..errors import TrainingError

logger = logging.getLogger(__name__)
Precision = Literal["bf16", "fp16", "fp32"]
_SMALLEST_SCALE = 2.0**-14
_STATE = ("scale", "_growth_tracker")
_UNITS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}
"""Instruction sets with matrix products in a precision. Emulation takes 30 to 100 times as long as fp32."""


class MixedPrecision:
    """Autocast, and for fp16, whose smallest gradients would vanish, a loss scale that adapts to what overflows."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
        self.device = device
        lacking = why_emulated("bf16", device) if precision == "bf16" else None
        if lacking:
            logger.info("training in fp32: %s", lacking)
        self.dtype = None if lacking else wanted
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def update(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> bool:
        """Clip the gradients of `module` and let the optimiser step, unless they are not finite.

        False if they were not and the step was left out: fp16 expects that now and then and lowers its scale, until
        that does not help and `TrainingError` is raised. The other precisions leave it to the caller.
        """
        self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], max_norm)
        finite = bool(torch.isfinite(norm))
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
            self.scaler.update()
            if self.scaler.get_scale() < _SMALLEST_SCALE:
                raise TrainingError("gradients overflow fp16 at every loss scale\nhint: use precision bf16 or fp32")
        elif finite:
            optimizer.step()
        optimizer.zero_grad()
        return finite

    def state(self) -> dict[str, Tensor]:
        """State for a resumed run: empty, or the loss scale."""
        if not self.scaler.is_enabled():
            return {}
        state = self.scaler.state_dict()
        return {name: torch.tensor(float(state[name])) for name in _STATE}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`."""
        if self.scaler.is_enabled() and state:
            whole = {**self.scaler.state_dict(), "scale": float(state["scale"])}
            self.scaler.load_state_dict({**whole, "_growth_tracker": int(state["_growth_tracker"])})


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Matrix products in float32 whatever autocast stands around; nothing where there is none, as in a trace."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def why_emulated(precision: str, device: torch.device) -> str | None:
    """Why `device` lacks a unit for matrix products in `precision`, so that torch emulates them; None if it has one."""
    if precision not in _UNITS:
        return None
    if device.type != "cpu":
        emulated = precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return "this GPU has no bf16 unit" if emulated else None
    present, units = torch.cpu.get_capabilities(), _UNITS[precision]
    if not any(present.get(unit) for unit in units):
        return f"this processor has no {precision} unit ({' or '.join(units)})"
    limit = isa_limit(precision)
    return f"{limit} takes the {precision} unit away" if limit else None


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
        if several:
            atexit.register(_leave)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"cannot train on {devices} devices ({placement.device}) of each of {nodes} machines: {error}\n"
            f"hint: this machine has {torch.cuda.device_count()} CUDA devices; --device cpu --devices 2 works "
            "anywhere, and several machines need torchrun on each of them"
        ) from None
    return fabric


def _leave() -> None:
    """Leave the other processes before the interpreter ends, at which a gloo thread would abort it (exit code -6).

    Lightning does so for NCCL alone.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def own_device(accelerator: str) -> torch.device:
    """The device that this process will train on, as far as its environment tells; before a launch the first one."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _launched() -> tuple[int, int] | None:
    """Devices of each machine and machines as `torchrun` set them, if it started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local
