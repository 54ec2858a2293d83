"""The LSTM language model once more, in NumPy, one string and one token at a time, after PyTorch's equations.

PyTorch's layout: W_ih and W_hh have 4H rows (input, forget, cell, output gate) and two bias vectors are added.
"""

import jax
import numpy as np

from metalearn.languages.tokens import START


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell(layer, x, h, c):
    """One layer and one step: x, h, c are [H]; returns the new h and c."""
    w_ih, w_hh = np.asarray(layer.input_weights).T, np.asarray(layer.hidden_weights).T
    gates = w_ih @ x + np.asarray(layer.input_bias) + w_hh @ h + np.asarray(layer.hidden_bias)
    size = len(h)
    i, f, g, o = (gates[n * size : (n + 1) * size] for n in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def slow_logits(params, tokens):
    """tokens: [strings, time] -> [strings, time, V]."""
    embedding, bias = np.asarray(params.embedding), np.asarray(params.output_bias)
    result = np.zeros((*tokens.shape, len(bias)))
    for s, string in enumerate(tokens):
        memory = [(np.zeros(embedding.shape[1]), np.zeros(embedding.shape[1])) for _ in params.layers]
        for t, token in enumerate(string):
            if token == START:  # a new string in the same row
                memory = [(0 * h, 0 * c) for h, c in memory]
            x = embedding[token]
            for number, layer in enumerate(params.layers):
                memory[number] = cell(layer, x, *memory[number])
                x = memory[number][0]
            result[s, t] = embedding @ x + bias
    return result


def random_params(model, seed=0, scale=0.8):
    """Normal float64 weights of any model, without compiling its `init`."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda x: scale * draw(size=x.shape), jax.eval_shape(model.init, jax.random.key(0)))
