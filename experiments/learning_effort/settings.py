"""What all experiments can be set to; each family adds fields of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

SettingsT = TypeVar("SettingsT", bound="Settings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The learner, the value of learning, and how the control of greatest value is found."""

    steps: int
    """T: states of the trajectory."""
    dt: float
    """alpha: learning rate of the network, and Euler step."""
    decay: float = 0.0
    """lambda: coefficient of the L2 penalty."""
    scale: float = 0.01
    """Standard deviation of the initial weights."""
    gamma: float = 0.99
    """Discount per unit of time (a step lasts dt)."""
    beta: float = 0.3
    """What control costs."""
    horizon: int | None = None
    """How many states count in the value; none: all."""
    segment: int = 0
    """States between those kept for the gradient, the others being computed again; 0: all are kept."""
    optimizer: Literal["quasi_newton", "ascent", "adam", "amsgrad"]
    """"quasi_newton" (L-BFGS-B, one problem after the other), or projected first-order ascent of all together:
    "ascent" (the paper's: plain), "adam" or "amsgrad"."""
    rate: float
    """Step size of first-order ascent: alpha_g; without meaning for "quasi_newton"."""
    iterations: int
    """K: iterations of first-order ascent; evaluations of "quasi_newton" at most."""
    tolerance: float = 0.0
    """Largest entry of the projected gradient, relative to the gradient at the start, at which to stop; 0: never."""
    start: float = 1e-3
    """Standard deviation of the noise on the neutral control where the search starts."""
    seeds: int = 3
    """Initial weights, each with a control of its own."""
    seed: int = 0
    """Of everything random."""
    batch: int = 32
    """Examples in a mini-batch, where learning from samples validates the control."""
    runs: int = 4
    """Runs of learning from samples, of the first of the initial weights."""

    def validate(self) -> None:
        """Checks what needs no computation."""
        for name in ("steps", "iterations", "seeds", "batch", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.segment < 0 or self.tolerance < 0 or self.start < 0:
            raise ValueError("segment, tolerance and start must not be negative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitSettings(Settings):
    """Of experiments on handwritten digits."""

    data: str = ""
    """A folder of the files of MNIST; empty: the digits that scikit-learn carries."""


def presets(paper: SettingsT, laptop: Mapping[str, Any], smoke: Mapping[str, Any]) -> dict[str, SettingsT]:
    """The three presets: the published settings, and how the other two differ from them."""
    tiny = {"seeds": 2, "runs": 2, "iterations": 4, "segment": 0} | dict(smoke)
    return {
        "smoke": dataclasses.replace(paper, **(dict(laptop) | tiny)),
        "laptop": dataclasses.replace(paper, **laptop),
        "paper": paper,
    }


# One problem at a time until it has converged, rather than a fixed number of small steps.
CONVERGED = {"optimizer": "quasi_newton", "iterations": 150, "tolerance": 1e-3}
