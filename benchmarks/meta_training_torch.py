"""A meta-training episode in PyTorch: the peers of `meta_training`.

A Python loop with `create_graph` on what `nn.LSTM` calls, the faster of the ways to write an LSTM
(`lstm_meta_gradient` compares them), with strings padded to the longest of their batch.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.lstm_meta_gradient_torch import LOGITS, from_tensors, loss, to_tensors
from metalearn.languages.recurrent import RecurrentParams


def episode(
    params: RecurrentParams, support: Sequence[np.ndarray], query: np.ndarray, rate: float, *, at_once: bool
) -> Callable[[], tuple[RecurrentParams, float]]:
    """A call that computes the meta-gradient of one episode, and the sum of the losses of the query after each update.

    Args:
        support: for each update, token strings [strings, time].
        query: token strings [strings, time].
        at_once: takes the gradient of each judgement with respect to the weights judged at once, and pulls all of them
            back through the updates in the end: the same number with the memory of one judgement instead of all of
            them. Else losses are added up, and their sum is differentiated.
    """
    tensors = to_tensors(params)
    batches = [torch.tensor(batch, dtype=torch.long) for batch in support]
    judge = torch.tensor(query, dtype=torch.long)
    loss_of = functools.partial(loss, LOGITS["nn.LSTM"])

    def call() -> tuple[RecurrentParams, float]:
        leaves = [p.detach().requires_grad_() for p in tensors]
        adapted, total = leaves, torch.zeros(())
        states: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for batch in batches:
            gradient = torch.autograd.grad(loss_of(adapted, batch), adapted, create_graph=True)
            adapted = [p - rate * g for p, g in zip(adapted, gradient, strict=True)]
            judged = loss_of(adapted, judge)
            if at_once:
                states += adapted
                slopes += torch.autograd.grad(judged, adapted)
                judged = judged.detach()
            total = total + judged
        whole = torch.autograd.grad(states, leaves, slopes) if at_once else torch.autograd.grad(total, leaves)
        return from_tensors(whole), total.item()

    return call
