"""NPBML's forward pass and inner loss in numpy, after their definitions: the oracle of the fast ones.

Only for four-layer encoders under normalisation="transductive".
"""

import numpy as np

from metalearn.fewshot.encoders import Norm
from tests.fewshot.slow_encoder import batch_norm, convolution, pool, relu


def film(layer, condition, x):
    gamma, beta = np.split(condition @ layer.weights + layer.bias, 2, axis=-1)
    return (1 + gamma) * x + beta


def condition(biases, maps):
    return maps if biases.film_input == "maps" else maps.mean((1, 2), keepdims=True)


def warped(biases, warp, maps):
    out = convolution(maps, warp.kernel)
    if biases.warp_norm:
        out = batch_norm(out, Norm(1.0, 0.0))
    return out if warp.film is None else film(warp.film, condition(biases, maps), out)


def with_params(meta, params, blocks, biases):
    """Kernels, norms and modulation of all blocks; those that move are the last of each."""
    first = 0 if biases.adapted == "all" else blocks - 1
    whole = {"kernels": meta["body"].kernels, "norms": meta["body"].norms, "film": meta.get("film", [()] * blocks)}
    return {name: [*of[:first], *params[name]] if name in params else of for name, of in whole.items()}


def logits(biases, meta, params, images):
    """Of one batch."""
    blocks = len(meta["body"].kernels)
    acting = with_params(meta, params, blocks, biases)
    maps = images
    for number in range(blocks):
        (kernel,), (norm,) = acting["kernels"][number], acting["norms"][number]
        entered, maps = maps, convolution(maps, kernel)
        warps = meta["warps"][number] if "warps" in meta else ()
        if biases.warp_place == "convolution":
            for warp in warps:
                maps = warped(biases, warp, maps)
        maps = batch_norm(maps, norm)
        for layer in acting["film"][number]:
            maps = film(layer, condition(biases, entered), maps)
        maps = relu(pool(maps))
        if biases.warp_place == "block":
            for warp in warps:
                maps = warped(biases, warp, maps)
    features = maps.mean((1, 2))
    return features, features @ params["head"].weights + params["head"].bias


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def network(biases, layers, x):
    for number, (dense, modulation) in enumerate(layers):
        z = x @ dense.weights + dense.bias
        z = z if modulation is None else film(modulation, x, z)
        x = z if number == 2 else relu(z)
    if biases.loss_output == "smooth_leaky_relu":
        x = 0.25 * x + 0.75 * np.log(1 + np.exp(5 * x)) / 5
    return x[..., 0]


def moments(leaf):
    return leaf.mean(), leaf.std(ddof=1)


def terms(biases, meta, params, task, order, start=None):
    """The terms of M by name.

    order: the leaves of params, as R is shown them. start: params whose moments stand for those of params, or none.
    """
    if biases.batch == "joint":
        count = len(task.support_x)
        features, scores = logits(biases, meta, params, np.concatenate([task.support_x, task.query_x]))
        (support_z, support), (query_z, query) = (features[:count], scores[:count]), (features[count:], scores[count:])
    else:
        (support_z, support), (query_z, query) = (
            logits(biases, meta, params, x) for x in (task.support_x, task.query_x)
        )
    ways = support.shape[1]
    surprise = -log_softmax(support)[np.arange(len(support)), task.support_y]
    found = {"base": surprise.mean()}
    nets = meta.get("losses", {})
    if biases.inductive:
        rows = np.concatenate([support, np.eye(ways)[task.support_y], surprise[:, None]], 1)
        found["inductive"] = network(biases, nets["inductive"], rows).mean()
    if biases.transductive:
        if biases.scores == "given":
            beliefs = task.scores
        else:
            centres = np.stack([support_z[task.support_y == way].mean(0) for way in range(ways)])
            beliefs = np.exp(log_softmax(-np.sum((query_z[:, None] - centres) ** 2, -1)))
        guess = -log_softmax(query)[np.arange(len(query)), beliefs.argmax(1)]
        net = nets["inductive" if biases.transductive_net == "shared" else "transductive"]
        found["transductive"] = network(biases, net, np.concatenate([query, beliefs, guess[:, None]], 1)).mean()
    if biases.regulariser:
        rows = []
        for leaf, before in zip(order(params), order(params if start is None else start), strict=True):
            norms = [np.abs(leaf).sum(), np.sqrt(np.sum(leaf**2))]
            rows += [
                *moments(leaf if start is None else before),
                *(norms if biases.norms == "l1_l2" else norms[1:] * 2),
            ]
        found["regulariser"] = network(biases, nets["regulariser"], np.array(rows))
    return found
