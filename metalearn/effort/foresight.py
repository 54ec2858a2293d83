"""Control by a learner that does not know all of what comes: uncertain schedules, and short sight.

The framework of Carrasco-Davis, Masis & Saxe (2024) chooses the whole control at once, for a future that is known.
Here, `expected_value` is the value of one control over several possible futures, and `receding_horizon` chooses the
control again and again from the state reached so far, looking only some way ahead (model-predictive control; Mayne et
al. 2000). Both take the same `Problem` and the same optimisers.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import unroll
from metalearn.effort.controls import Signal
from metalearn.effort.optimise import quasi_newton
from metalearn.effort.system import Plan, Problem, Scenario, process, value


def switched_at(steps: int, times: Any, tasks: int = 2) -> jax.Array:
    """Turns [..., steps] int32 of tasks that change at `times` [..., switches]: (switches so far) mod tasks.

    A time is the number of the first step of the next task; a switch at `steps` or later does not happen. Leading axes
    of `times` are scenarios.
    """
    so_far = jnp.sum(jnp.arange(steps)[:, None] >= jnp.asarray(times)[..., None, :], -1)
    return (so_far % tasks).astype(jnp.int32)


def expected_value(problem: Problem, plan: Plan, scenarios: Scenario, probabilities: Any) -> jax.Array:
    """sum_s p_s V(plan; scenario s), a scalar: the value of a control that must do before it is known what happens.

    Args:
        scenarios: leaves [scenarios, ...].
        probabilities: p [scenarios], of sum 1.

    Raises:
        ValueError: another number of scenarios than of probabilities, or (where these are concrete) probabilities
            that are negative or do not sum to 1.
    """
    shape = jnp.shape(probabilities)
    for leaf in jax.tree.leaves(scenarios):
        if jnp.shape(leaf)[:1] != shape:
            raise ValueError(
                f"probabilities have shape {shape}, but a leaf of scenarios {jnp.shape(leaf)}: each must have one "
                "leading axis over the same scenarios"
            )
    if not isinstance(probabilities, jax.core.Tracer):
        p = np.asarray(probabilities, np.float64)
        if not (p.min(initial=0) >= 0 and abs(p.sum() - 1) < 1e-5):
            raise ValueError(f"probabilities={p} must not be negative and must sum to 1")
    return jnp.asarray(probabilities) @ jax.vmap(lambda scenario: value(problem, plan, scenario))(scenarios)


class Applied(NamedTuple):
    """What a learner of limited foresight did.

    signal: in force at each step, leaves [steps, ...].
    value: V of it over the whole trajectory, a scalar.
    evaluations: of value and gradient in each window, [windows] integers.
    """

    signal: Signal
    value: jax.Array
    evaluations: np.ndarray


def receding_horizon(
    problem: Problem,
    start: Plan,
    scenario: Scenario,
    lower: Any,
    upper: Any,
    look_ahead: int,
    replan: int = 1,
    iterations: int = 200,
    tolerance: float = 1e-4,
) -> Applied:
    """Closed-loop control: from the present state maximise the value of the next `look_ahead` states, then act.

    Of each such plan the first `replan` controls are applied; the next plan begins at the state that they lead to, and
    starts its search from what the last one had in mind. look_ahead=1 is control by present reward alone; look_ahead
    and replan of all steps is control of the whole trajectory at once. All windows of a problem, from any start and in
    any scenario of the same shapes, share what is compiled.

    Args:
        problem: its parameters are numbers, not arrays.
        start: initial weights, and a signal [steps, ...] at which searches begin.
        lower, upper: scalars, or pytrees like the signal at one time.
        replan: steps from one plan to the next, at most look_ahead.
        iterations, tolerance: of `quasi_newton`, for each window.

    Raises:
        ValueError: look_ahead or replan outside their ranges; as `quasi_newton`.
        FloatingPointError: as `quasi_newton`.
    """
    steps = problem.steps
    if not 1 <= look_ahead <= steps:
        raise ValueError(f"look_ahead={look_ahead} must be in 1 .. {steps}, the steps of the problem")
    if not 1 <= replan <= look_ahead:
        raise ValueError(f"replan={replan} must be in 1 .. look_ahead={look_ahead}: further steps are not planned")
    known = process(problem).inputs(start, scenario, jax.random.key(0))
    # Windows near the end reach beyond it: rows there repeat the last one, and their states count nothing.
    beyond = lambda leaf: jnp.broadcast_to(leaf[-1:], (2 * look_ahead, *leaf.shape[1:]))
    rows = jax.tree.map(lambda leaf: jnp.concatenate([leaf, beyond(leaf)]), known)

    state = process(problem).init(start, scenario, jax.random.key(0))
    signal = jax.tree.map(lambda leaf: leaf[:look_ahead], rows.signal)
    applied, evaluations = [], []
    for first in range(0, steps, replan):
        window = _Window(state, jnp.asarray(first), rows, scenario)
        best = quasi_newton(
            partial(_ahead, window=window, problem=problem), signal, lower, upper, iterations, tolerance,
            value_and_gradient=partial(_ahead_and_gradient, window=window, problem=problem),
        )  # fmt: skip
        evaluations.append(int(best.iterations))
        state, done, signal = _act(best.signal, window, problem, replan)
        applied.append(done)
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:steps], *applied)
    worth = _value(problem, start._replace(signal=whole), scenario)
    return Applied(whole, worth, np.array(evaluations))


class _Window(NamedTuple):
    """What the next stretch of time begins with, and what is known to come."""

    state: Any  # of the learning process
    first: jax.Array  # number of the step
    rows: Any  # inputs of the process, from step 0 to beyond the last
    scenario: Scenario

    def inputs(self, signal: Signal) -> Any:
        """Those of the steps that `signal` is for."""
        size = len(jax.tree.leaves(signal)[0])
        rows = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, self.first, size), self.rows)
        return rows._replace(signal=signal)


# At the level of the module, so that problems of the same shapes share what is compiled.


def _ahead(signal: Signal, window: _Window, problem: Problem) -> jax.Array:
    """Value of the steps that `signal` is for, discounted to the first of them."""
    seen = window.inputs(signal)
    size = len(jax.tree.leaves(signal)[0])
    learning = process(problem)._replace(init=lambda *_: window.state, inputs=lambda *_: seen)
    weights = jnp.where(window.first + jnp.arange(size) < problem.steps, problem.discounts()[:size], 0)
    plan, key = Plan(window.state.weights, signal), jax.random.key(0)  # averaged dynamics draw nothing
    return -unroll(learning, weights, plan, window.scenario, key, memory=problem.memory, segment=problem.segment).value


_ahead_and_gradient = jax.jit(jax.value_and_grad(_ahead), static_argnames="problem")
_value = jax.jit(value, static_argnums=0)


@partial(jax.jit, static_argnums=(2, 3))
def _act(signal: Signal, window: _Window, problem: Problem, replan: int) -> tuple[Any, Signal, Signal]:
    """The state `replan` steps on, the signal that led there, and where to start the next search."""
    learning = process(problem)
    plan = Plan(window.state.weights, signal)
    done = jax.tree.map(lambda leaf: leaf[:replan], window.inputs(signal))
    state, _ = jax.lax.scan(
        lambda state, row: (learning.step(plan, state, row, window.scenario), None), window.state, done
    )
    after = window.first + len(jax.tree.leaves(signal)[0])
    fresh = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, after, replan)
    later = jax.tree.map(lambda s, leaf: jnp.concatenate([s[replan:], fresh(leaf)]), signal, window.rows.signal)
    return state, done.signal, later
