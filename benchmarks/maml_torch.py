"""MAML as users of PyTorch write it: the peer of `maml`. One task after the other, one thread a core."""

import dataclasses
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from metalearn.fewshot.encoders import EncoderParams, Norm
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.heads import Head

Params = list[torch.Tensor]
"""For each block kernel [outputs, inputs, 3, 3], scale and offset; then the head's weights [ways, width] and bias."""
MetaGradient = Callable[[Params, Sequence[torch.Tensor], float, int], Params]


def meta_gradient(variant: MetaGradient, meta: Any, tasks: Episode, rate: float, updates: int) -> Callable[[], Any]:
    """A call that computes the mean meta-gradient of a batch of tasks, in the shape of our meta-parameters."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    tensor = lambda x: torch.tensor(np.ascontiguousarray(x))
    params = []
    for (kernel,), (norm,) in zip(*meta["body"], strict=True):
        params += [tensor(np.transpose(kernel, (3, 2, 0, 1))), tensor(norm.scale), tensor(norm.offset)]
    params += [tensor(np.transpose(meta["head"].weights)), tensor(meta["head"].bias)]
    images = lambda x: tensor(np.moveaxis(np.asarray(x), -1, 2))
    labels = lambda y: torch.tensor(np.asarray(y), dtype=torch.long)
    batch = images(tasks.support_x), labels(tasks.support_y), images(tasks.query_x), labels(tasks.query_y)

    def call() -> Any:
        gradient: list[Any] = [leaf.numpy() for leaf in variant(params, batch, rate, updates)]
        *blocks, weights, bias = gradient
        kernels: Any = tuple((np.transpose(leaf, (2, 3, 1, 0)),) for leaf in blocks[::3])
        norms = tuple((Norm(*pair),) for pair in zip(blocks[1::3], blocks[2::3], strict=True))
        return jax.tree.map(np.asarray, {"body": EncoderParams(kernels, norms), "head": Head(weights.T, bias)})

    return call


def peak_memory_mib(sizes: Any) -> float | None:
    """What the loop with create_graph takes at its peak for one task, beyond what was there before, in 2^20 bytes.

    The operating system says it, of a process of its own; None where it does not (it must be Linux).

    Args:
        sizes: as `maml.Sizes`.
    """
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured_peak, (dataclasses.replace(sizes, tasks=1),))


def _measured_peak(sizes: Any) -> float:
    from benchmarks.maml import problem

    warm_up = dataclasses.replace(sizes, filters=2)
    for each in (warm_up, sizes):
        call = meta_gradient(_create_graph, *problem(each), each.rate, each.updates)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        call()
    return (_status("VmHWM") - before) / 2**10


def _status(field: str) -> float:
    """A line of the process's status, in KiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    *blocks, weights, bias = params
    for kernel, scale, offset in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        x = F.batch_norm(F.conv2d(x, kernel, padding=1), None, None, scale, offset, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.cross_entropy(F.linear(x.mean((2, 3)), weights, bias), y)


def _create_graph(params: Params, tasks: Sequence[torch.Tensor], rate: float, updates: int) -> Params:
    """A loop of `autograd.grad(..., create_graph=True)`."""
    total: Any = [torch.zeros_like(p) for p in params]
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        leaves = [p.detach().requires_grad_() for p in params]
        adapted = leaves
        for _ in range(updates):
            gradient = torch.autograd.grad(_loss(adapted, support_x, support_y), adapted, create_graph=True)
            adapted = [p - rate * g for p, g in zip(adapted, gradient, strict=True)]
        gradient = torch.autograd.grad(_loss(adapted, query_x, query_y), leaves)
        total = [t + g for t, g in zip(total, gradient, strict=True)]
    return [t / len(tasks[0]) for t in total]


def _functional(params: Params, tasks: Sequence[torch.Tensor], rate: float, updates: int) -> Params:
    """`torch.func.grad` of `torch.func.grad`."""

    def query_loss(params, support_x, support_y, query_x, query_y):
        for _ in range(updates):
            gradient = torch.func.grad(_loss)(params, support_x, support_y)
            params = [p - rate * g for p, g in zip(params, gradient, strict=True)]
        return _loss(params, query_x, query_y)

    gradients = [torch.func.grad(query_loss)(params, *task) for task in zip(*tasks, strict=True)]
    return [torch.stack(leaf).mean(0) for leaf in zip(*gradients, strict=True)]


VARIANTS: dict[str, MetaGradient] = {"create_graph": _create_graph, "torch.func": _functional}
