"""The control signal of a whole learning trajectory: seconds per control iteration, and to the optimum.

A control iteration is what one step of any ascent needs: V and its gradient with respect to the control at all times.
The networks are tiny, so what bounds it is not arithmetic but how fast small operations follow each other; the rows are
therefore set against PyTorch and against each other instead of against the rate of a matrix product.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Row, best_seconds, compile_timed, missing
from benchmarks.ladder import relative_error
from metalearn.effort import controls, datasets, networks
from metalearn.effort.moments import Moments
from metalearn.effort.optimise import ascend, quasi_newton
from metalearn.effort.system import Plan, Problem, Scenario, controlled, value

NAME = "learning_effort"
DT, DECAY, BETA = 5e-3, 0.01, 0.3
TASK_A = (3, 6, 2)
SEMANTIC = (8, 30, 15)
LENGTHS = (1000, 10_000, 100_000)
TOLERANCE = 1e-4
"""How far the peer's gradient may be from ours, relative to its norm: both are float32."""


def problem(widths: tuple[int, ...], task: Moments, steps: int, scale: float, memory: str) -> tuple[Any, ...]:
    """Gain control as published: (value of (signal, weights), neutral signal, initial weights)."""
    network = networks.linear(widths, scale)
    weights = network.init(jax.random.key(0))
    control = controls.gain(weights, BETA)
    whole = Problem(controlled(network, control, DECAY), control.cost, steps, DT, memory=memory)
    scenario = Scenario(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), task))
    return lambda signal, w: value(whole, Plan(w, signal), scenario), controls.constant(control, steps), weights


class Iteration:
    """One compiled control iteration; `batch` of them, from different weights, side by side."""

    def __init__(
        self,
        widths: tuple[int, ...],
        task: Moments,
        steps: int,
        scale: float = 0.01,
        memory: str = "recompute",
        batch: int | None = None,
    ):
        of, signal, weights = problem(widths, task, steps, scale, memory)
        function = jax.value_and_grad(of)
        if batch:
            weights = jax.vmap(networks.linear(widths, scale).init)(jax.random.split(jax.random.key(0), batch))
            signal = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), signal)
            function = jax.vmap(function)
        compiled, self.compile_seconds = compile_timed(jax.jit(function).lower(signal, weights))
        self.memory_mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
        self.call: Callable[[], Any] = lambda: compiled(signal, weights)

    def row(
        self, name: str, seconds: float, unit: str = "s/iteration", note: str = "", peer: float | None = None
    ) -> Row:
        """The row of this program."""
        return Row(
            f"{NAME}/{name}",
            seconds,
            unit,
            ratio_to_peer=peer,
            peak_memory_mib=self.memory_mib,
            compile_seconds=self.compile_seconds,
            note=note,
        )


def rows(steps: int = 16_000, peer_steps: int = 1000, rounds: int = 5) -> Iterator[Row]:
    """Control iterations by problem and length, PyTorch's, and whole optimisations from nothing."""
    task, semantic = datasets.task_a().moments, datasets.semantic(4).moments
    alone = Iteration(TASK_A, task, steps)
    eight = Iteration(TASK_A, task, steps, batch=8)
    wide = Iteration(SEMANTIC, semantic, steps, scale=1e-4)
    times = best_seconds({"alone": alone.call, "eight": eight.call, "wide": wide.call}, rounds)
    yield alone.row(f"task A, T={steps}", times["alone"])
    yield eight.row(f"task A, T={steps}, one of 8", times["eight"] / 8, note="8 sets of initial weights under vmap")
    yield wide.row(f"semantic h=4, T={steps}", times["wide"])

    for length in LENGTHS:
        for memory in ("recompute", "segments"):
            program = Iteration(TASK_A, task, length, memory=memory)
            seconds = best_seconds({"it": program.call}, max(rounds // 2, 1))["it"]
            yield program.row(f"task A, T={length}, {memory}", 1e6 * seconds / length, "us/step")

    yield from _peer(task, peer_steps, rounds)

    began = time.perf_counter()
    of, start, weights = problem(TASK_A, task, steps, 0.01, "recompute")
    optimum = quasi_newton(lambda signal: of(signal, weights), start, -0.5, 0.5)
    seconds = time.perf_counter() - began
    yield Row(
        f"{NAME}/task A, T={steps}, optimum",
        seconds,
        "s",
        note=f"compiling included; V = {float(optimum.value):.5f} after {int(optimum.iterations)} evaluations, "
        f"projected gradient {float(optimum.residual):.0e} of that at the start",
    )
    began = time.perf_counter()
    optima = sweep()
    jax.block_until_ready(optima)
    yield Row(
        f"{NAME}/single neuron, five sweeps",
        time.perf_counter() - began,
        "s",
        note=f"{optima.value.size} optimisations, compiling included; projected gradients of at most "
        f"{float(optima.residual.max()):.0e} of those at the start",
    )


def sweep(count: int = 30, steps: int = 600, iterations: int = 400) -> Any:
    """The single neuron's optimal gain for `count` values each of gamma, sigma, beta, lambda and T, in one program."""
    longest = 2 * steps
    network = networks.linear((1, 1), 0.0)
    default = {"gamma": 0.99, "sigma": 1.0, "beta": 0.3, "decay": 0.1, "steps": float(steps)}
    ranges = {
        "gamma": 10.0 ** np.linspace(-8, 0, count),
        "sigma": np.linspace(1e-5, 5, count),
        "beta": np.linspace(1e-5, 2, count),
        "decay": np.linspace(0, 5, count),
        "steps": np.round(np.linspace(steps / 3, longest, count)),
    }
    points = {
        name: jnp.asarray(
            np.concatenate([ranges[swept] if swept == name else np.full(count, default[name]) for swept in ranges])
        )
        for name in ranges
    }

    def solve(point):
        weights = network.init(jax.random.key(0))
        control = controls.gain(weights, point["beta"], 0.0, 0.5, "quadratic")
        whole = Problem(
            controlled(network, control, point["decay"]),
            control.cost,
            longest,
            1e-3,
            point["gamma"],
            horizon=point["steps"],
        )
        scenario = Scenario(datasets.two_gaussians(2.0, point["sigma"]).moments)
        of = lambda signal: value(whole, Plan(weights, signal), scenario)
        return ascend(of, controls.constant(control, longest), 0.0, 0.5, optax.adam(0.02), iterations, 1e-3)

    return jax.jit(jax.vmap(solve))(points)


def _peer(task: Moments, steps: int, rounds: int) -> Iterator[Row]:
    """The same iteration as a loop in PyTorch, checked to give the same gradient."""
    absent = missing("torch", "bench")
    if absent:
        yield Row(f"{NAME}/pytorch", None, "s/iteration", note=absent)
        return
    from benchmarks import learning_effort_torch as torch_peer

    of, signal, weights = problem(TASK_A, task, steps, 0.01, "recompute")
    ours = Iteration(TASK_A, task, steps)
    theirs = torch_peer.iteration(task, weights, steps, DT, DECAY, BETA, 0.99)
    reference, found = ours.call()[1], theirs()
    error = relative_error(found, list(reference))
    if not error <= TOLERANCE:
        raise ValueError(f"PyTorch's gradient differs from ours by {error:.1e} of its norm")
    times = best_seconds({"ours": ours.call, "peer": theirs}, rounds)
    yield Row(f"{NAME}/pytorch, task A, T={steps}", times["peer"], "s/iteration")
    yield ours.row(
        f"task A, T={steps}", times["ours"], note="peer: a loop in PyTorch", peer=times["peer"] / times["ours"]
    )
