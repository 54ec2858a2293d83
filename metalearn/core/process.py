"""The one idea: learning is a dynamical system, and its law is a parameter.

    state_{k+1} = step(meta, state_k, input_k, task)          k = 0 .. K-1
    J(meta)     = sum_k weight_k * loss(meta, state_k, input_k, task)

A `LearningProcess` is the functions in these two lines. `gradient_process` builds one for learners that descend a
(possibly learned) loss by a (possibly learned) update rule; processes that are no gradient descent, such as an ODE,
are written down directly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from metalearn.core.inner_gradient import inner_gradient_of

Meta = Any  # pytree of floating-point arrays: what the outer level learns
State = Any  # pytree: what the inner level learns
Input = Any  # pytree: what drives update k (a batch of strings, a learning rate, a slice of a control signal, a key)
Task = Any  # pytree of arrays: what is the same for the whole trajectory (an episode, correlation matrices)
Metrics = dict[str, jax.Array]


class LearningProcess(NamedTuple):
    """A learner, as pure functions: four, and two that may be left out.

    init(meta, task, key) -> state_0.
    inputs(meta, task, key) -> pytree whose leaves have a leading axis over k. Everything that varies with k belongs
        here: indexing a [K, ...] array of `meta` inside `step` would make its gradient quadratic in K. For a
        trajectory of K updates there are K rows when inputs only drive the updates (`loss` then gets None as its
        input), or K + 1 rows when the loss of a state sees the input in force at that state (a control that costs).
        No leaves at all means that nothing varies.
    step(meta, state, input, task) -> next state, of the same structure, shapes and dtypes.
    loss(meta, state, input, task) -> (scalar, metrics): what the outer level wants of a state, and a dict of further
        scalars or arrays to report.
    first_order_step: `step` without the dependence of its inner gradient on state and meta, for the first-order
        and truncated estimators. None makes those replace the Jacobian of `step` with respect to the state by the
        identity, which is exact to O(dt) for an Euler step.
    prepare(meta, task) -> what the others get for their task. What no update changes, such as the features of a body
        that stays, belongs here: it is computed, and differentiated, once instead of at every update. By default the
        task itself.
    """

    init: Callable[[Meta, Task, jax.Array], State]
    inputs: Callable[[Meta, Task, jax.Array], Any]
    step: Callable[[Meta, State, Input, Task], State]
    loss: Callable[[Meta, State, Input, Task], tuple[jax.Array, Metrics]]
    first_order_step: Callable[[Meta, State, Input, Task], State] | None = None
    prepare: Callable[[Meta, Task], Task] = lambda meta, task: task


class UpdateRule(NamedTuple):
    """How a gradient becomes an update: an optax transformation that may also see meta and input_k.

    init(params) -> rule_state.
    update(meta, input, gradient, rule_state, params) -> (update to add to params, rule_state).
    """

    init: Callable[[Any], Any]
    update: Callable[[Meta, Input, Any, Any, Any], tuple[Any, Any]]


class Learner(NamedTuple):
    """State of a gradient process: the parameters that move, and the memory of the update rule."""

    params: Any
    rule_state: Any


def optax_rule(
    transformation: optax.GradientTransformation, rate: Callable[[Meta, Input], Any] | None = None
) -> UpdateRule:
    """The update rule of an optax transformation, optionally with a learned or scheduled learning rate.

    Adaptive transformations need `eps_root > 0` (for instance `optax.adam(1e-3, eps_root=1e-8)`): without it a
    parameter whose gradient is exactly zero turns the meta-gradient into NaN, as sqrt has no derivative at 0.

    Args:
        transformation: e.g. `optax.sgd(0.1)`, or, together with `rate`, `optax.identity()` or `optax.scale_by_adam()`.
        rate: (meta, input) -> a scalar, or a pytree like params whose leaves broadcast against them. The update is
            then minus rate times what the transformation returns. None: the transformation's own scale is used.
    """

    def update(meta, input, gradient, rule_state, params):
        updates, rule_state = transformation.update(gradient, rule_state, params)
        if rate is None:
            return updates, rule_state
        rates = rate(meta, input)
        if jax.tree_util.treedef_is_leaf(jax.tree.structure(rates)):
            return jax.tree.map(lambda u: -rates * u, updates), rule_state
        return jax.tree.map(lambda r, u: -r * u, rates, updates), rule_state

    return UpdateRule(transformation.init, update)


def gradient_process(
    *,
    init: Callable[[Meta, Task, jax.Array], Any],
    inputs: Callable[[Meta, Task, jax.Array], Any],
    inner_loss: Callable[[Meta, Any, Input, Task], jax.Array],
    outer_loss: Callable[[Meta, Any, Input, Task], tuple[jax.Array, Metrics]],
    rule: UpdateRule,
    inner_gradient: str = "mixed",
) -> LearningProcess:
    """A learner that descends `inner_loss` by `rule`: params_{k+1} = params_k + rule(d inner_loss / d params_k).

    Leaves of the network that shall not move in the inner loop (ANIL's body, warp layers) stay in meta and are read
    by `inner_loss` from there; leaves that move are what `init` returns.

    Args:
        init: (meta, task, key) -> params at k = 0.
        inputs: as in LearningProcess.
        inner_loss: (meta, params, input, task) -> scalar; may depend on meta (learned losses, preconditioners).
        outer_loss: (meta, params, input, task) -> (scalar, metrics).
        rule: see `optax_rule`.
        inner_gradient: "mixed" (default) or "plain": how the inner gradient is differentiated, see inner_gradient.py.

    Raises:
        ValueError: unknown `inner_gradient`.
    """
    gradient_of_params = inner_gradient_of(inner_loss, inner_gradient)

    def start(meta, task, key):
        params = init(meta, task, key)
        return Learner(params, rule.init(params))

    def step_along(gradient):
        def step(meta, state, input, task):
            direction = gradient(meta, state.params, input, task)
            updates, rule_state = rule.update(meta, input, direction, state.rule_state, state.params)
            return Learner(optax.apply_updates(state.params, updates), rule_state)

        return step

    def first_order_gradient(meta, params, input, task):
        meta, params, input, task = jax.lax.stop_gradient((meta, params, input, task))
        return jax.grad(inner_loss, argnums=1)(meta, params, input, task)

    return LearningProcess(
        init=start,
        inputs=inputs,
        step=step_along(gradient_of_params),
        loss=lambda meta, state, input, task: outer_loss(meta, state.params, input, task),
        first_order_step=step_along(first_order_gradient),
    )
