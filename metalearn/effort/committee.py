"""The soft committee machine of Saad & Solla (1995): a non-linear network whose online learning is averaged exactly.

A student of K hidden units learns from a teacher of M, from one fresh example at a time, of many inputs N:

    yhat(x) = sum_i v_i g(J_i x)     y(x) = sum_n g(B_n x) + noise     g(h) = erf(h / sqrt 2)     x ~ N(0, 1_N)
    J_i <- J_i - rho (eta / N) d/dJ_i [1/2 (y - yhat)^2],     |J_i|, |B_n| of order 1

For N to infinity, in time t = examples / N, the overlaps of the weight vectors follow closed equations,

    dR_in/dt = rho eta <d_i h_n>     dQ_ik/dt = rho eta <d_i h_k + d_k h_i> + (rho eta)^2 <d_i d_k>

with d_i = v_i g'(h_i) (y - yhat). The last term is the noise of learning from single examples, which other averaged
equations leave out. The fields h of student and teacher are jointly Gaussian, so all averages are closed.

| symbol     | name              | meaning                                                    |
|------------|-------------------|------------------------------------------------------------|
| R        | `student_teacher` | J_i . B_n, [K, M]                                          |
| Q        | `student_student` | J_i . J_k, [K, K]                                          |
| T        | task              | B_n . B_m, [M, M]                                          |
| C        | `covariance`      | of all fields, students first, [K + M, K + M]              |
| v        | `output`          | second-layer weights of the student: 1, times gains if any |
| eta      | `rate`            | learning rate                                              |
| rho      | Control.rate      | factor of the learning rate                                |
| I2, I3, I4 | `activities`, `slope_field`, `slopes` | the averages                     |
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.effort.controls import Control
from metalearn.effort.system import System


class Overlaps(NamedTuple):
    """All that the averaged equations know of a student. Leaves may be float32 or float64."""

    student_teacher: jax.Array  # R, [K, M]
    student_student: jax.Array  # Q, [K, K]


def overlaps(student: jax.Array, teacher: jax.Array) -> Overlaps:
    """Of given weight vectors: student [K, N], teacher [M, N]. The task is teacher @ teacher.T."""
    return Overlaps(student @ teacher.T, student @ student.T)


def activities(covariance: jax.Array) -> jax.Array:
    """I2[a, b] = <g(h_a) g(h_b)> for fields h ~ N(0, covariance), [F, F]."""
    scale = jnp.sqrt(1 + jnp.diagonal(covariance))
    return 2 / jnp.pi * jnp.arcsin(covariance / jnp.outer(scale, scale))


def _tilted(covariance: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """<g'(e h) f(h)> = factor <f(h)> under a tilted covariance; returns the factor and that covariance.

    As g'(s) = sqrt(2 / pi) exp(-s^2 / 2), all it does to a Gaussian density is to add e e^T to the precision. A field
    is chosen by its unit vector e, as the gradient of an indexing would be a scatter.
    """
    row = covariance @ unit
    own = 1 + row @ unit
    return jnp.sqrt(2 / jnp.pi / own), covariance - jnp.outer(row, row) / own


def slope_field(covariance: jax.Array, units: int) -> jax.Array:
    """I3[a, b, c] = <g'(h_a) h_b g(h_c)> for a among the first `units` fields, [units, F, F]."""

    def of(unit):
        factor, tilted = _tilted(covariance, unit)
        # <h_b g(h_c)> = cov(h_b, h_c) <g'(h_c)>
        return factor * tilted * jnp.sqrt(2 / jnp.pi / (1 + jnp.diagonal(tilted)))

    return jax.vmap(of)(jnp.eye(units, len(covariance), dtype=covariance.dtype))


def slopes(covariance: jax.Array, units: int) -> tuple[jax.Array, jax.Array]:
    """I4[a, b, c, d] = <g'(h_a) g'(h_b) g(h_c) g(h_d)> for a, b among the first `units` fields, [units, units, F, F].

    Also <g'(h_a) g'(h_b)>, [units, units].
    """

    def of(first, second):
        factor, tilted = _tilted(covariance, first)
        other, tilted = _tilted(tilted, second)
        return factor * other * activities(tilted), factor * other

    every = jnp.eye(units, len(covariance), dtype=covariance.dtype)
    return jax.vmap(lambda first: jax.vmap(lambda second: of(first, second))(every))(every)


def committee(
    control: Control, students: int, teachers: int, inputs: int, rate: Any = 1.0, noise: Any = 0.0, scale: float = 0.5
) -> System:
    """A student under control as a `System`: its weights are `Overlaps`, its task is T.

    Controls that make sense are those of the learning rate, `controls.learning_rate`, and gains of the hidden units,
    `controls.gain(jnp.ones(students), beta)`: those act on the second-layer weights v. Time counts examples per input,
    and Problem.dt is but the Euler step.

    Args:
        students, teachers: K and M.
        inputs: N of the initial weights: the overlaps of random vectors are of order 1 / sqrt(N).
        rate: eta. noise: standard deviation of noise on the teacher's output.
        scale: the student's initial weight vectors are drawn from N(0, scale^2 / N), and those of the teacher are
            orthonormal (T the identity). For other vectors take their `overlaps`.

    Raises:
        ValueError: students or teachers below 1, or more teachers than inputs; rate, noise or scale negative (where
            concrete); a control of what this model has not: emphasis of outputs, or other data.
    """
    if not (students >= 1 and 1 <= teachers <= inputs):
        raise ValueError(
            f"students={students} and teachers={teachers} must be at least 1, and inputs={inputs} no fewer than "
            "teachers"
        )
    for name, number in (("rate", rate), ("noise", noise), ("scale", scale)):
        if not isinstance(number, jax.core.Tracer) and not number >= 0:
            raise ValueError(f"{name}={number} must not be negative")
    for name in ("emphasis", "drives", "judged"):
        if getattr(control, name) is not Control._field_defaults[name]:
            raise ValueError(f"a committee has one output and one task: a control cannot act through `{name}`")

    def fields(weights, signal, task):
        """Covariance of all fields, and each unit's part in the error y - yhat."""
        shared = jnp.concatenate([weights.student_student, weights.student_teacher], 1)
        covariance = jnp.concatenate([shared, jnp.concatenate([weights.student_teacher.T, task], 1)])
        output = control.weights(jnp.ones(students, covariance.dtype), signal)
        return covariance, output, jnp.concatenate([-output, jnp.ones(len(task), covariance.dtype)])

    def flow(weights, signal, task):
        covariance, output, parts = fields(weights, signal, task)
        speed = rate * control.rate(signal)
        drift = speed * output[:, None] * (slope_field(covariance, students) @ parts)  # <d_i h_b>, [K, K + M]
        errors, plain = slopes(covariance, students)
        spread = jnp.outer(output, output) * (errors @ parts @ parts + noise**2 * plain)  # <d_i d_k>, [K, K]
        toward = drift[:, :students]
        return Overlaps(drift[:, students:], toward + toward.T + speed**2 * spread)

    def loss(weights, signal, task):
        covariance, _, parts = fields(weights, signal, task)
        return 0.5 * parts @ activities(covariance) @ parts + 0.5 * noise**2

    def init(key):
        student = scale / jnp.sqrt(inputs) * jax.random.normal(key, (students, inputs))
        return overlaps(student, jnp.eye(inputs)[:teachers])

    return System(init, flow, loss)
