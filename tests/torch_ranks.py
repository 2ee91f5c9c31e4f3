"""What each rank of tests/test_torch_distributed.py runs, under torchrun: answers go to a file of rank 0."""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import flatcore as fc


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network, and 23 samples, which do not divide by two."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    return model, torch.randn(23, 6).double(), torch.randint(4, (23,))


def answers(model: nn.Module, loss: nn.Module, data: object, curvature: str) -> dict[str, np.ndarray]:
    """Everything that a rank computes, as arrays."""
    H = fc.torch.Hessian(model, loss, data, curvature=curvature, memory=2000)
    v = np.random.default_rng(1).standard_normal((H.shape[0], 3))
    top = fc.eigsh(H, 2, tol=1e-10)
    return {"value": np.array(H.value), "gradient": H.gradient().numpy(), "product": H @ v, "top": top.values}


def fully_sharded() -> nn.Module:
    """The network under FSDP."""
    model, _, _ = problem()
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def tensor_parallel(size: int) -> nn.Module:
    """The network with the rows of its first layer on different ranks."""
    model, _, _ = problem()
    return parallelize_module(model, init_device_mesh("cpu", (size,)), {"2": ColwiseParallel()})


def main(out: str) -> None:
    """Rank r holds every second sample from number r on, in batches of five."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model, x, y = problem()
    mine = list(zip(x[rank::size].split(5), y[rank::size].split(5), strict=True))
    found = {}
    for curvature in ("hessian", "ggn"):
        for name, wrapped in (("plain", model), ("ddp", DistributedDataParallel(model))):
            given = answers(wrapped, nn.CrossEntropyLoss(), mine, curvature)
            found |= {f"{curvature}-{name}-{key}": array for key, array in given.items()}
    gathered: list[object] = [None] * size
    dist.all_gather_object(gathered, {key: array.tobytes() for key, array in found.items()})
    found["same"] = np.array(all(entry == gathered[0] for entry in gathered))
    alone = fc.torch.Hessian(model, nn.CrossEntropyLoss(), mine, group=False)
    found["alone"] = np.array(alone.value)
    try:
        fc.torch.Hessian(model, nn.CrossEntropyLoss(), mine) @ torch.full(
            (len(found["hessian-plain-gradient"]),), 1.0 + rank
        )
    except ValueError as error:
        found["refusal"] = np.array(str(error))
    cut = (2, 23) if rank else (0, 2)  # two samples on rank 0, the others on rank 1
    uneven = fc.torch.Hessian(model, nn.CrossEntropyLoss(), [(x[slice(*cut)], y[slice(*cut)])], memory=rank * 10**9)
    found["uneven"] = fc.eigsh(uneven, 2, tol=1e-10).values
    found["empty"] = np.array(fc.torch.Hessian(model, nn.CrossEntropyLoss(), mine if rank else []).value)
    broken = [(x * float("nan") if rank else x, y)]
    for name, given in (("broken", broken), ("parameters", mine)):
        other = problem()[0]
        with torch.no_grad():
            other[0].weight[0, 0] += rank * (name == "parameters")
        try:
            fc.torch.Hessian(other, nn.CrossEntropyLoss(), given)
        except (ValueError, RuntimeError) as error:
            found[f"{name}-refusal"] = np.array(str(error))
    shapes = [(x, torch.ones(23, *((4, 1) if rank else (4,))).double())]
    try:
        fc.torch.Hessian(model, lambda z, t: ((z - t.reshape(z.shape)) ** 2).mean(), shapes)
    except ValueError as error:
        found["shapes-refusal"] = np.array(str(error))
    for name, sharded in (("fsdp", fully_sharded()), ("tensor", tensor_parallel(size))):
        try:
            fc.torch.Hessian(sharded, nn.CrossEntropyLoss(), mine)
        except ValueError as error:
            found[f"{name}-refusal"] = np.array(str(error))
    if rank == 0:
        np.savez(out, **found)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of the meshes' groups may outlive the interpreter, which then aborts


if __name__ == "__main__":
    main(sys.argv[1])
