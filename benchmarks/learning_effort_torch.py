"""What one would write in PyTorch: Euler steps in a Python loop, and backward() through them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


def iteration(
    task: Any, weights: Sequence[Any], steps: int, dt: float, decay: float, beta: float, gamma: float
) -> Callable[[], list[np.ndarray]]:
    """A call that returns dV/dG of both layers, [steps, out, in] each, at G = 0, for a two-layer linear network.

    Args:
        task: moments xx [I, I], xy [I, O], yy [O, O].
    """
    tensor = lambda array: torch.tensor(np.asarray(array), dtype=torch.float32)
    xx, yx, yy = tensor(task.xx), tensor(task.xy).T, tensor(task.yy)
    start = [tensor(matrix) for matrix in weights]

    def run() -> list[np.ndarray]:
        # One leaf for each time: indexing one large tensor would make the backward pass quadratic in `steps`.
        gains = [[torch.zeros_like(w, requires_grad=True) for w in start] for _ in range(steps)]
        first, second = start
        value = torch.zeros(())
        for n, (gain_1, gain_2) in enumerate(gains):
            low, high = first * (1 + gain_1), second * (1 + gain_2)
            product = high @ low
            error = yx - product @ xx
            data = 0.5 * (torch.trace(yy) - 2 * (product * yx).sum() + ((product @ xx) * product).sum())
            loss = data + 0.5 * decay * ((first**2).sum() + (second**2).sum())
            cost = torch.exp(beta * ((gain_1**2).sum() + (gain_2**2).sum())) - 1
            value = value + dt * gamma ** (n * dt) * (-loss - cost)
            moved_1 = (high.T @ error) * (1 + gain_1) - decay * first
            moved_2 = (error @ low.T) * (1 + gain_2) - decay * second
            first, second = first + dt * moved_1, second + dt * moved_2
        value.backward()
        zero = lambda gain: torch.zeros_like(gain) if gain.grad is None else gain.grad
        return [np.stack([zero(pair[layer]).numpy() for pair in gains]) for layer in (0, 1)]

    return run
