"""The LSTM meta-gradient as users of PyTorch write it: the peer of `lstm_meta_gradient`.

`nn.LSTM` is the fused layer, whose CPU kernel has a differentiable backward; the others spell the cell out, with the
products of the inputs taken for all times at once. One task after the other, as many threads as there are cores, except
for the last variant, which puts the tasks side by side.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from metalearn.languages.episodes import Episode
from metalearn.languages.recurrent import Gates, RecurrentParams
from metalearn.languages.tokens import PAD

Params = list[torch.Tensor]
"""embedding, output bias; then for each layer weight_ih [4H, H], weight_hh [4H, H], bias_ih, bias_hh."""
Logits = Callable[[Params, torch.Tensor], torch.Tensor]
MetaGradient = Callable[[Params, Sequence[torch.Tensor], float], Params]


def meta_gradient(variant: MetaGradient, params: RecurrentParams, tasks: Episode, rate: float) -> Callable[[], Any]:
    """A call that computes the mean meta-gradient of a batch of tasks, in the shape of our parameters."""
    tensors = to_tensors(params)
    tokens = [torch.tensor(np.asarray(strings.tokens), dtype=torch.long) for strings in tasks]
    return lambda: from_tensors(variant(tensors, tokens, rate))


def to_tensors(params: RecurrentParams) -> Params:
    """Our parameters in PyTorch's layout; from here on PyTorch takes as many threads as there are cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    tensors = [torch.tensor(np.asarray(params.embedding)), torch.tensor(np.asarray(params.output_bias))]
    return tensors + [torch.tensor(np.asarray(leaf).T.copy()) for layer in params.layers for leaf in layer]


def from_tensors(tensors: Sequence[torch.Tensor]) -> RecurrentParams:
    """The inverse, without copying."""
    arrays: list[Any] = [tensor.numpy() for tensor in tensors]
    embedding, output_bias, *rest = arrays
    layers = [Gates(*(leaf.T for leaf in rest[i : i + 4])) for i in range(0, len(rest), 4)]
    return RecurrentParams(embedding, output_bias, tuple(layers))


def _cells(params: Params, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [time, strings, V] of tokens [strings, time], cell by cell."""
    embedding, output_bias, *rest = params
    hidden = F.embedding(tokens.T, embedding)
    for i in range(0, len(rest), 4):
        weight_ih, weight_hh, bias_ih, bias_hh = rest[i : i + 4]
        h = c = hidden.new_zeros(hidden.shape[1:])
        outputs = []
        for driven in F.linear(hidden, weight_ih, bias_ih + bias_hh).unbind(0):
            i_, f, g, o = (driven + h @ weight_hh.T).chunk(4, -1)
            c = f.sigmoid() * c + i_.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        hidden = torch.stack(outputs)
    return F.linear(hidden, embedding, output_bias)


def _fused(params: Params, tokens: torch.Tensor) -> torch.Tensor:
    """The same by what `nn.LSTM` calls."""
    embedding, output_bias, *weights = params
    zeros = embedding.new_zeros(len(weights) // 4, len(tokens), embedding.shape[1])
    rows = F.embedding(tokens.T, embedding)
    hidden, _, _ = torch.lstm(rows, (zeros, zeros), weights, True, len(weights) // 4, 0.0, True, False, False)
    return F.linear(hidden, embedding, output_bias)


def loss(logits: Logits, params: Params, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of token strings [strings, time], a string a row, with PAD behind it."""
    predicted = logits(params, tokens[:, :-1])
    return F.cross_entropy(predicted.flatten(0, 1), tokens[:, 1:].T.flatten(), ignore_index=PAD)


LOGITS: dict[str, Logits] = {"cells": _cells, "nn.LSTM": _fused}


def _create_graph(logits: Logits) -> MetaGradient:
    """A loop of `autograd.grad(..., create_graph=True)`."""

    def variant(params, tokens, rate):
        total: Any = [torch.zeros_like(p) for p in params]
        for support, query in zip(*tokens, strict=True):
            leaves = [p.detach().requires_grad_() for p in params]
            adapted = leaves
            for batch in support:
                gradient = torch.autograd.grad(loss(logits, adapted, batch), adapted, create_graph=True)
                adapted = [p - rate * g for p, g in zip(adapted, gradient, strict=True)]
            gradient = torch.autograd.grad(loss(logits, adapted, query), leaves)
            total = [t + g for t, g in zip(total, gradient, strict=True)]
        return [t / len(tokens[0]) for t in total]

    return variant


def _query_loss(params: Params, support: torch.Tensor, query: torch.Tensor, rate: float) -> torch.Tensor:
    inner = torch.func.grad(lambda params, batch: loss(_cells, params, batch))
    for batch in support:
        params = [p - rate * g for p, g in zip(params, inner(params, batch), strict=True)]
    return loss(_cells, params, query)


def _functional(params: Params, tokens: Sequence[torch.Tensor], rate: float) -> Params:
    """`torch.func.grad` of `torch.func.grad`, task by task."""
    outer = torch.func.grad(_query_loss)
    gradients = [outer(params, support, query, rate) for support, query in zip(*tokens, strict=True)]
    return [torch.stack(leaf).mean(0) for leaf in zip(*gradients, strict=True)]


def _vectorised(params: Params, tokens: Sequence[torch.Tensor], rate: float) -> Params:
    """The same under `torch.func.vmap` over tasks."""
    outer: Any = torch.func.vmap(torch.func.grad(_query_loss), in_dims=(None, 0, 0, None))
    return [leaf.mean(0) for leaf in outer(params, *tokens, rate)]


VARIANTS: dict[str, MetaGradient] = {
    "create_graph, cells": _create_graph(_cells),
    "create_graph, nn.LSTM": _create_graph(_fused),
    "torch.func": _functional,
    "torch.func, vmap": _vectorised,
}
