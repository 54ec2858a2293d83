"""Pre-training: the gradient of one batch of ordinary classification, and the same in PyTorch.

Default sizes: 128 images of 32x32x3, 64 classes, the four-layer network with 64 filters (Raymond et al. 2024). Images
lie on one device, or are split over all. The update of 0.1 million weights that follows is left out. For the limit
only the multiply-adds of convolutions are counted, three times those of a forward pass.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import ladder, maml
from benchmarks.harness import Row, best_seconds, compile_timed, matrix_product, missing
from metalearn.core import replicate, shard_tasks, task_mesh
from metalearn.fewshot.convolution import CONVOLUTIONS
from metalearn.fewshot.encoders import encode, four_conv
from metalearn.fewshot.heads import cross_entropy, logits_of

NAME = "pretraining"
PLACES = ("one device", "all devices")
SIZES = maml.Sizes(filters=64, size=32, channels=3, ways=64, queries=2, tasks=1)
"""The batch is the query set of one task: two images of each of 64 classes."""


def program(sizes: maml.Sizes, convolution: str, place: str, dtype: type = np.float32) -> ladder.Program:
    """Compiles the gradient of one batch."""
    meta, tasks = maml.problem(sizes, dtype)
    encoder = four_conv(sizes.filters, sizes.channels, sizes.size, blocks=sizes.blocks, convolution=convolution)
    x, y = tasks.query_x[0], tasks.query_y[0]
    mesh = task_mesh(jax.devices()[:1] if place == "one device" else None, tasks=len(x))

    def loss(meta: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return cross_entropy(logits_of(meta["head"], encode(encoder, meta["body"], x)[0]), y)

    meta, (x, y) = replicate(meta, mesh), shard_tasks((x, y), mesh)
    compiled, seconds = compile_timed(jax.jit(jax.grad(loss)).lower(meta, x, y))
    return ladder.Program(
        lambda: compiled(meta, x, y), seconds, compiled.memory_analysis().temp_size_in_bytes * mesh.size / 2**20
    )


def rows(sizes: maml.Sizes = SIZES, rounds: int = 5) -> Iterator[Row]:
    """Every way to compute it, against the limit and PyTorch."""
    product, product_operations = matrix_product()
    programs = {
        f"{convolution}, {place}": program(sizes, convolution, place)
        for convolution, place in itertools.product(CONVOLUTIONS, PLACES)
    }
    calls = {name: of.step for name, of in programs.items()}
    absent = missing("torch", "bench")
    if not absent:
        calls["pytorch"] = peer_call(sizes)
        check_peer(sizes)
    times = best_seconds({"product": product, **calls}, rounds)
    operations = 3 * sizes.forward() * sizes.ways * sizes.queries
    for name, of in programs.items():
        yield Row(
            f"{NAME}/{name}",
            times[name],
            "s/step",
            share_of_limit=operations * times["product"] / product_operations / times[name],
            ratio_to_peer=None if absent else times["pytorch"] / times[name],
            peak_memory_mib=of.memory_mib,
            compile_seconds=of.compile_seconds,
        )
    yield Row(f"{NAME}/pytorch", times.get("pytorch"), "s/step", note=absent)


def peer_call(sizes: maml.Sizes, dtype: type = np.float32) -> Any:
    """The call that computes the same gradient in PyTorch: its meta-gradient without any inner update."""
    from benchmarks import maml_torch as peer

    meta, tasks = maml.problem(sizes, dtype)
    return peer.meta_gradient(peer.VARIANTS["create_graph"], meta, tasks, sizes.rate, updates=0)


def check_peer(sizes: maml.Sizes, tolerance: float = maml.TOLERANCE) -> None:
    """Compares gradients in float64.

    Raises:
        ValueError: the peer computes something else.
    """
    with jax.enable_x64(True):
        ours = jax.tree.map(np.asarray, program(sizes, "patches", "one device", np.float64).step())
        theirs = peer_call(sizes, np.float64)()
    error = ladder.relative_error(theirs, ours)
    if not error <= tolerance:
        raise ValueError(f"pytorch differs from ours by {error:.1e} of its norm, more than {tolerance:.0e}")
