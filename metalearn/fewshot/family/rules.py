"""Algorithms that learn the inner update rule: rates, curvature, a generator of rates, an adaptive preconditioner."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.core import UpdateRule, objectives, optax_rule
from metalearn.fewshot.encoders import EncoderParams
from metalearn.fewshot.family.learner import Algorithm, Meta, Setting, Weights, configured, learner
from metalearn.fewshot.perceptron import init_perceptron, perceptron


def meta_sgd(setting: Setting) -> Algorithm:
    """Meta-SGD (Li et al. 2017): a learned rate for every weight. Meta: the initial weights and "rates".

    Rates begin at the setting's, not at random: so training begins at MAML.
    """

    def init(key):
        meta = setting.init(key)
        return meta | {"rates": jax.tree.map(lambda leaf: jnp.full_like(leaf, setting.rate), Weights(**meta))}

    rule = optax_rule(optax.identity(), lambda meta, input: meta["rates"])
    return configured(setting, learner(setting, rule=rule), init=init)


def maml_plus_plus(setting: Setting, annealing: int = 5000) -> Algorithm:
    """MAML++ (Antoniou et al. 2019): rates per array and step, normalisation per state, multi-step loss.

    Scales and offsets of the normalisation do not move in the inner loop: each of the K + 1 states has its own, for
    the support set (which drives the next update) as for the query set (which judges the state). Statistics are those
    of the batch, as in effect in the released code. For annealing of the derivative order, train with the estimator
    `first_order` first, and go on from its meta-parameters.

    Meta: "kernels", "head", "norms" (leading axis K + 1) and "rates" (leading axis K), which begin at the setting's.

    Args:
        annealing: outer steps until only the last state counts (10 epochs of 500 in the released code).

    Raises:
        ValueError: annealing below 1.
    """
    if annealing < 1:
        raise ValueError(f"annealing={annealing} outer steps must be at least 1")

    def init(key):
        meta = setting.init(key)
        moving = {"kernels": meta["body"].kernels, "head": meta["head"]}
        rates = jax.tree.map(lambda leaf: jnp.full(setting.steps, setting.rate, leaf.dtype), moving)
        return moving | {"norms": _rows(meta["body"].norms, setting.steps + 1), "rates": rates}

    def inputs(meta, task, key):
        # States see inputs too, so there is one row more than there are updates; no update reads its rates.
        return {"norms": meta["norms"], "rates": jax.tree.map(lambda x: jnp.append(x, x[-1]), meta["rates"])}

    process = learner(
        setting,
        start=lambda meta, task, key: {"kernels": meta["kernels"], "head": meta["head"]},
        weights=lambda meta, params, input: Weights(EncoderParams(params["kernels"], input["norms"]), params["head"]),
        inputs=inputs,
        rule=optax_rule(optax.identity(), lambda meta, input: input["rates"]),
    )
    annealed = lambda step: objectives.annealed(setting.steps, step / annealing)
    return configured(setting, process, init=init, objective=annealed)


def meta_curvature(setting: Setting) -> Algorithm:
    """Meta-Curvature (Park & Oliva 2019): a learned matrix along each axis of a gradient.

    G -> G x_1 M_filter x_2 M_in x_3 M_out for kernels, whose nine positions are one axis; M_in and M_out for matrices;
    vectors keep their gradient. Meta: the initial weights and "curvature", which begins at the identity.
    """

    def init(key):
        meta = setting.init(key)
        identities = lambda leaf: tuple(jnp.eye(n, dtype=leaf.dtype) for n in _axes(leaf))
        return meta | {"curvature": jax.tree.map(identities, Weights(**meta))}

    def transformed(gradient, matrices):
        product = gradient.reshape(_axes(gradient)) if matrices else gradient
        for axis, matrix in enumerate(matrices):
            product = jnp.moveaxis(jnp.tensordot(matrix, product, (1, axis)), 0, axis)
        return product.reshape(gradient.shape)

    rule = preconditioned(setting, lambda meta, gradient: jax.tree.map(transformed, gradient, meta["curvature"]))
    return configured(setting, learner(setting, rule=rule), init=init)


def gap(setting: Setting) -> Algorithm:
    """GAP (Kang et al. 2023): a preconditioner that adapts to the gradient, and is positive definite.

    A kernel's gradient, as a matrix G = U S V^T [filters, 9 * inputs], becomes U diag(softplus(m)) U^T G, where U is a
    constant to the meta-gradient. Other arrays keep theirs. Meta: the initial weights and "scales" m, one for each
    singular value (largest first), which begin at softplus(m) = 1.
    """
    return _gap(setting, lambda matrix: min(matrix), spectral_product)


def approximate_gap(setting: Setting) -> Algorithm:
    """Approximate GAP (Kang et al. 2023): G -> diag(softplus(m)) G, one number for each filter; otherwise as `gap`."""
    return _gap(setting, lambda matrix: matrix[0], lambda scales, gradient: scales[:, None] * gradient)


def spectral_product(scales: jax.Array, gradient: jax.Array) -> jax.Array:
    """U diag(scales) U^T G for G = U S V^T, with U held constant. gradient: [n, m]; scales: [min(n, m)]."""
    basis = _left_singular_vectors(jax.lax.stop_gradient(gradient))
    return basis @ (scales[:, None] * (basis.T @ gradient))


def _left_singular_vectors(matrix: jax.Array) -> jax.Array:
    """U of matrix = U S V^T, largest values first. [n, m] -> [n, min(n, m)]."""
    decompose = lambda matrix: jnp.linalg.svd(matrix, full_matrices=False)[0]
    if jax.default_backend() == "cpu":
        # Under vmap one after the other. A batch would be split over the threads that run the program, and the call
        # that splits it waits for the rest on one of them: two such calls at once wait forever (JAX 0.10).
        decompose = jax.custom_batching.sequential_vmap(decompose)
    return decompose(matrix)


def _gap(setting, count, product):
    matrix = lambda kernel: kernel.reshape(-1, kernel.shape[-1]).T

    def init(key):
        meta = setting.init(key)
        # softplus(x) = log(1 + e^(2 x)) / 2 is 1 here.
        begin = lambda kernel: jnp.full(count(matrix(kernel).shape), np.log(np.e**2 - 1) / 2, kernel.dtype)
        return meta | {"scales": jax.tree.map(begin, meta["body"].kernels)}

    def transformed(gradient, m):
        return product(jax.nn.softplus(2 * m) / 2, matrix(gradient)).T.reshape(gradient.shape)

    def precondition(meta, gradient):
        kernels = jax.tree.map(transformed, gradient.body.kernels, meta["scales"])
        return gradient._replace(body=gradient.body._replace(kernels=kernels))

    return configured(setting, learner(setting, rule=preconditioned(setting, precondition)), init=init)


def preconditioned(setting: Setting, precondition) -> UpdateRule:
    """Gradient descent at the setting's rate along precondition(meta, gradient)."""

    def update(meta, input, gradient, rule_state, params):
        return jax.tree.map(lambda g: -setting.rate * g, precondition(meta, gradient)), rule_state

    return UpdateRule(lambda params: (), update)


def alfa(setting: Setting, decay: float = 5e-4) -> Algorithm:
    """ALFA (Baik et al. 2020): a network sets rate and decay of each array at each step.

        theta <- (1 - b_k h_b) theta - a_k h_a gradient,   (h_a, h_b) = 1 + perceptron(means of theta, of the gradient)

    Meta: the initial weights, "rates" a [K, arrays] (which begin at the setting's rate), "decays" b [K, arrays] and
    "generator", which begins at h = 1.

    Args:
        decay: b begins at decay times rate (5e-4).
    """

    def init(key):
        meta = setting.init(key)
        arrays = len(jax.tree.leaves(meta))
        rates = jnp.full((setting.steps, arrays), setting.rate)
        generator = init_perceptron(jax.random.fold_in(key, 1), (2 * arrays,) * 3)
        return meta | {"rates": rates, "decays": decay * rates, "generator": generator}

    def update(meta, input, gradient, rule_state, params):
        leaves, structure = jax.tree.flatten(params)
        gradients = jax.tree.leaves(gradient)
        means = jnp.stack([leaf.mean() for leaf in (*leaves, *gradients)])
        of_rate, of_decay = jnp.split(1 + perceptron(meta["generator"], means), 2)
        rates, decays = input["rates"] * of_rate, input["decays"] * of_decay
        moves = [-b * p - a * g for a, b, p, g in zip(rates, decays, leaves, gradients, strict=True)]
        return jax.tree.unflatten(structure, moves), rule_state

    process = learner(
        setting,
        inputs=lambda meta, task, key: {"rates": meta["rates"], "decays": meta["decays"]},
        rule=UpdateRule(lambda params: (), update),
    )
    return configured(setting, process, init=init)


def _axes(leaf: jax.Array) -> tuple[int, ...]:
    """The axes that curvature acts on: a kernel's positions, inputs and outputs, a matrix's two, none of a vector."""
    return {4: (9, *leaf.shape[2:]), 2: leaf.shape, 1: ()}[leaf.ndim]


def _rows(tree: Meta, count: int) -> Meta:
    """`count` copies along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (count, *[1] * leaf.ndim)), tree)
