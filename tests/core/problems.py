"""Small learners in pieces: a test builds a process of the pieces, or loops over them by hand as an oracle.

The hand-written loop is the definition (Python loop, `jax.grad`, nothing of the library), and it is slow.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.core import LearningProcess, gradient_process, optax_rule


class Problem(NamedTuple):
    """A learner that descends `inner_loss` by plain gradient steps at the rates that `rate` returns.

    init(meta, task) -> params; inputs(meta, task) -> leaves [updates, ...]; inner_loss(meta, params, input, task);
    outer_loss(meta, params, task); rate(meta, input) -> scalar or pytree like params; meta: an example of float64;
    new_task(seed) -> task, which is not the same for two seeds.
    """

    init: Callable
    inputs: Callable
    inner_loss: Callable
    outer_loss: Callable
    rate: Callable
    meta: Any
    new_task: Callable
    updates: int

    def process(self, inner_gradient: str = "mixed") -> LearningProcess:
        return gradient_process(
            init=lambda meta, task, key: self.init(meta, task),
            inputs=lambda meta, task, key: self.inputs(meta, task),
            inner_loss=self.inner_loss,
            outer_loss=lambda meta, params, input, task: (self.outer_loss(meta, params, task), {}),
            rule=optax_rule(optax.identity(), self.rate),
            inner_gradient=inner_gradient,
        )

    def tasks(self, count: int) -> Any:
        """`count` tasks: leaves [count, ...]."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(self.new_task, range(count)))


def slow_states(problem: Problem, meta: Any, task: Any, horizon: int | None = None) -> list[Any]:
    """The K + 1 states; the inner gradients before the last `horizon` updates are constants."""
    inputs = problem.inputs(meta, task)
    params = problem.init(meta, task)
    states = [params]
    for k in range(problem.updates):
        input = jax.tree.map(lambda x, k=k: x[k], inputs)
        gradient = jax.grad(problem.inner_loss, argnums=1)(meta, params, input, task)
        if horizon is not None and k < problem.updates - horizon:
            gradient = jax.lax.stop_gradient(gradient)
        rate = problem.rate(meta, input)
        if jax.tree.structure(rate) != jax.tree.structure(params):
            rate = jax.tree.map(lambda _, rate=rate: rate, params)
        params = jax.tree.map(lambda p, r, g: p - r * g, params, rate, gradient)
        states.append(params)
    return states


def slow_value(problem: Problem, weights: np.ndarray, meta: Any, task: Any, horizon: int | None = None) -> jax.Array:
    states = slow_states(problem, meta, task, horizon)
    return sum(w * problem.outer_loss(meta, s, task) for w, s in zip(weights, states, strict=True) if w)


def normal(seed: int, *shape: int, scale: float = 0.5) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=shape)


def linear_regression() -> Problem:
    """The initial weights are learned; the inner loss is quadratic, so there is a closed form."""

    def new_task(seed):
        shapes = {"x": (4, 3), "y": (4,), "query_x": (5, 3), "query_y": (5,)}
        return {name: normal(10 * seed + i, *shape, scale=1.0) for i, (name, shape) in enumerate(shapes.items())}

    squares = lambda w, x, y: 0.5 * jnp.mean((x @ w - y) ** 2)
    return Problem(
        init=lambda meta, task: meta["w"],
        inputs=lambda meta, task: (),
        inner_loss=lambda meta, w, input, task: squares(w, task["x"], task["y"]),
        outer_loss=lambda meta, w, task: squares(w, task["query_x"], task["query_y"]),
        rate=lambda meta, input: 0.3,
        meta={"w": normal(0, 3)},
        new_task=new_task,
        updates=5,
    )


def mlp() -> Problem:
    """Initial weights, and a learning rate per layer and step (MAML++), which go in as inputs."""

    def forward(params, x):
        hidden = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"])
        return hidden @ params["out"]["w"] + params["out"]["b"]

    def rate(meta, input):
        return {layer: {"w": input[layer], "b": input[layer]} for layer in ("in", "out")}

    def new_task(seed):
        x, (slope, phase) = normal(10 * seed, 8, 1, scale=1.0), normal(10 * seed + 1, 2, scale=1.0)
        return {"x": x, "y": np.sin(slope * x + phase)}

    squares = lambda params, task, part: jnp.mean((forward(params, task["x"]) - task["y"])[part] ** 2)
    start = {"in": {"w": normal(1, 1, 4), "b": normal(2, 4)}, "out": {"w": normal(3, 4, 1), "b": normal(4, 1)}}
    return Problem(
        init=lambda meta, task: meta["start"],
        inputs=lambda meta, task: meta["rates"],
        inner_loss=lambda meta, params, input, task: squares(params, task, slice(0, 4)),
        outer_loss=lambda meta, params, task: squares(params, task, slice(4, 8)),
        rate=rate,
        meta={"start": start, "rates": {"in": np.array([0.3, 0.2, 0.1]), "out": np.array([0.1, 0.4, 0.2])}},
        new_task=new_task,
        updates=3,
    )


def lstm() -> Problem:
    """A next-token LSTM; each update reads its own batch of strings, the query strings are in the task."""
    symbols, units, updates = 3, 3, 3

    def cross_entropy(params, tokens):  # tokens: [strings, time] int
        tokens = jax.nn.one_hot(tokens.T, symbols, dtype=params["out"].dtype)

        def cell(carry, token):
            hidden, memory = carry
            i, f, g, o = jnp.split(token @ params["embed"] + hidden @ params["recurrent"], 4, axis=-1)
            memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)
            return (hidden, memory), hidden

        zero = jnp.zeros((tokens.shape[1], units), tokens.dtype)
        _, hidden = jax.lax.scan(cell, (zero, zero), tokens[:-1])
        return -jnp.mean(jnp.sum(tokens[1:] * jax.nn.log_softmax(hidden @ params["out"]), axis=-1))

    def new_task(seed):
        tokens = np.random.default_rng(seed).integers(symbols, size=(updates + 1, 2, 5))
        return {"support": tokens[:-1], "query": tokens[-1]}

    meta = {
        "embed": normal(5, symbols, 4 * units),
        "recurrent": normal(6, units, 4 * units),
        "out": normal(7, units, symbols),
    }
    return Problem(
        init=lambda meta, task: meta,
        inputs=lambda meta, task: task["support"],
        inner_loss=lambda meta, params, input, task: cross_entropy(params, input),
        outer_loss=lambda meta, params, task: cross_entropy(params, task["query"]),
        rate=lambda meta, input: 0.7,
        meta=meta,
        new_task=new_task,
        updates=updates,
    )


def learned_loss() -> Problem:
    """Everything at once: a learned inner loss, Meta-SGD rates, per-step rates in inputs, a body that does not move."""

    def predict(meta, params, x):
        return jnp.tanh(x @ meta["body"]) @ params["head"] + params["bias"]

    def inner_loss(meta, params, input, task):
        prediction = predict(meta, params, task["x"])
        features = jnp.stack([prediction, task["y"], prediction - task["y"]], axis=-1)
        learned = jax.nn.softplus(jnp.tanh(features @ meta["loss"]["hidden"]) @ meta["loss"]["out"])
        return jnp.mean(learned) + 0.1 * jnp.sum(params["head"] ** 2)

    def new_task(seed):
        x, query_x = normal(seed, 2, 4, 3, scale=1.0)
        return {"x": x, "y": x.sum(-1), "query_x": query_x, "query_y": query_x.sum(-1)}

    def rate(meta, input):
        return jax.tree.map(lambda r: input * r, meta["rates"])

    def outer_loss(meta, params, task):
        return jnp.mean((predict(meta, params, task["query_x"]) - task["query_y"]) ** 2)

    return Problem(
        init=lambda meta, task: meta["start"],
        inputs=lambda meta, task: meta["step_rates"],
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        rate=rate,
        meta={
            "start": {"head": normal(9, 4), "bias": np.asarray(0.1)},
            "body": normal(10, 3, 4),
            "loss": {"hidden": normal(11, 3, 5), "out": normal(12, 5)},
            "rates": {"head": 0.3 + normal(13, 4, scale=0.05), "bias": np.asarray(0.2)},
            "step_rates": np.array([1.0, 0.7, 0.9, 0.5]),
        },
        new_task=new_task,
        updates=4,
    )


# Tests of this size spend nearly all their time in compilation, and their results do not depend on optimisation.
compiled = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)
PROBLEMS = {f.__name__: f for f in (linear_regression, mlp, lstm, learned_loss)}
