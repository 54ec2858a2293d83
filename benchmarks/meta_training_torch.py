"""A meta-training episode as users of PyTorch write it: the peer of `meta_training`.

A Python loop with `create_graph`, on strings padded to the longest of their batch. The gradient of each judgement with
respect to the weights judged is taken at once and pulled back through all updates in the end: the same as adding up
losses, with the memory of one judgement instead of that of all.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.lstm_meta_gradient_torch import Logits, from_tensors, loss, to_tensors
from metalearn.languages.recurrent import RecurrentParams


def episode(
    logits: Logits, params: RecurrentParams, support: Sequence[np.ndarray], query: np.ndarray, rate: float
) -> Callable[[], tuple[RecurrentParams, float]]:
    """A call that computes the meta-gradient of one episode, and the sum of the losses of the query after each update.

    Args:
        support: for each update, token strings [strings, time].
        query: token strings [strings, time].
    """
    tensors = to_tensors(params)
    batches = [torch.tensor(batch, dtype=torch.long) for batch in support]
    judge = torch.tensor(query, dtype=torch.long)

    def call() -> tuple[RecurrentParams, float]:
        leaves = [p.detach().requires_grad_() for p in tensors]
        adapted, value = leaves, 0.0
        states: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for batch in batches:
            gradient = torch.autograd.grad(loss(logits, adapted, batch), adapted, create_graph=True)
            adapted = [p - rate * g for p, g in zip(adapted, gradient, strict=True)]
            judged = loss(logits, adapted, judge)
            value += judged.item()
            states += adapted
            slopes += torch.autograd.grad(judged, adapted)
        return from_tensors(torch.autograd.grad(states, leaves, slopes)), value

    return call
