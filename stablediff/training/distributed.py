"""One process or several (`torchrun --nproc-per-node 2 -m stablediff train …`): the same gradients either way."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist
from torch import nn

from stablediff.models.clip import CLIPLayer
from stablediff.models.layers import ResnetBlock, SpatialTransformer

_PATIENCE = timedelta(days=7)  # of the processes that wait while the main one makes the data ready


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Joins the group that torchrun started, if it did. -> this process's device."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()
        # DDP keeps the group in a reference cycle; left to the interpreter's end, its threads would abort the process.
        gc.collect()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through alone, and then the others, who find what it has written."""
    if world_size() > 1 and not is_main():
        dist.barrier()
    try:
        yield
    finally:
        if world_size() > 1 and is_main():
            dist.barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process: they must all stop at the same step."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value.item())


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Written into `values`."""
    if world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.SUM)
    return values


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of what is not NaN."""
    if world_size() == 1:
        return values
    both = sum_over_processes(torch.stack([values.nan_to_num(0.0), (~values.isnan()).float()]))
    return both[0] / both[1]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """(B,…) of each process -> all of them in order, through which gradients flow back."""
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows))


def shard(module: nn.Module) -> None:
    """Splits weights, gradients and the optimiser's memory over all processes (FSDP2), block by block."""
    from torch.distributed.fsdp import fully_shard

    for block in module.modules():
        if isinstance(block, (ResnetBlock, SpatialTransformer, CLIPLayer)):
            fully_shard(block)
    fully_shard(module)


@contextmanager
def by_parts(module: nn.Module) -> Iterator[None]:
    """Inside, parts of a sharded module can be called by themselves, with the weights that it has at the beginning.

    Weights that belong to no block are put together only by a call of the whole module, and stay so. Outside, all are
    split again, so that none of the inside is used there. All processes must do this together.
    """
    from torch.distributed.fsdp import FSDPModule

    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in sharded:
        part.reshard()
    for root in sharded[:1]:
        root.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor put together; any other as it is. All processes must call this."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a sharded tensor; any other as it is."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """On the parameter's device, sharded and laid out in memory as it is; counters (no dimensions) stay as they are.

    The fused optimiser reads weights and their moments side by side in memory, so they must have one order.
    """
    if value.ndim == 0:
        return value
    if hasattr(parameter, "full_tensor") and value.shape == parameter.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
