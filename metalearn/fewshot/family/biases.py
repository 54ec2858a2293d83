"""What NPBML (Raymond et al. 2024) learns, and how: every difference between paper and released code is a field.

`PAPER` and `CODE` are two readings of one method. Rows of the paper's tables of ablations are `PAPER.only(...)` or
`CODE.only(...)` of the components that `TABLE_3` and `TABLE_4` list.
"""

import dataclasses
from typing import Any, Literal

import optax

LOSSES = ("inductive", "transductive", "regulariser")
"""The learned terms of the inner loss: L^S, L^Q and R."""
COMPONENTS = ("warps", *LOSSES, "film")
"""What can be added to a learned initialisation; the columns of tables 3 and 4 of the paper."""


@dataclasses.dataclass(frozen=True)
class Biases:
    """Which procedural biases are learned, and in which reading. The defaults are those of the paper."""

    adapted: Literal["all", "last"] = "all"
    """Blocks that move in the inner loop, beside the head. Code: the last; what those before it compute is computed
    once per task."""
    affine: bool = True
    """Whether scales and offsets of the normalisation count as weights of their block. Code: they never move."""
    initialisation: Literal["all", "adapted", "none"] = "all"
    """Which weights the outer loop learns the start of: all, those that move in the inner loop (code: the other blocks
    stay as pre-trained), or none."""
    head: Literal["learned_row", "random_row", "ways"] = "learned_row"
    """Where the head begins: all ways at one learned row, at one random row that stays as it was drawn (code: its copy
    passes no gradient), or each way at its own, as in MAML."""
    warps: Literal["none", "all", "last"] = "all"
    """Blocks with warps. Code: the last."""
    warp_place: Literal["convolution", "block"] = "convolution"
    """Where a warp stands: after each 3x3 convolution of the block, before its normalisation, so that it is linear in
    the weights and bends their gradient by omega omega^T (equation 10), or (code) at the end of the block."""
    warp_norm: bool = False
    """Whether a warp at the end of a block is followed by a batch normalisation of its own (code). It has no weights,
    and with it a warp that is the identity changes the maps all the same."""
    inductive: bool = True
    """Whether M has the term L^S."""
    transductive: bool = True
    """Whether M has the term L^Q: the query images (never their labels) then drive updates."""
    regulariser: bool = True
    """Whether M has the term R."""
    transductive_net: Literal["own", "shared"] = "own"
    """The network of L^Q. Code: that of L^S, called on what L^Q is shown."""
    scores: Literal["prototypes", "given"] = "prototypes"
    """What L^Q takes for the truth about query images: the softmax of minus squared distances to the class means under
    the weights in force (an early revision of the code), or the scores that come with the task (a frozen relation
    network in the last revision), see relation.py."""
    loss_output: Literal["identity", "smooth_leaky_relu"] = "identity"
    """Last non-linearity of the three networks. Code: smooth leaky ReLU, which moves M by a constant at the start."""
    biases: Literal["zero", "uniform"] = "zero"
    """How biases of the networks and of the modulation begin. Code: as PyTorch's do, so not close to MAML."""
    moments: Literal["differentiable", "detached"] = "differentiable"
    """Whether R has a gradient through means and deviations. Code: they are constants."""
    norms: Literal["l1_l2", "l2_l2"] = "l1_l2"
    """The norms that R is shown. Code: the second one twice."""
    film: Literal["none", "losses", "encoder", "both"] = "both"
    """What is modulated: the networks of the loss, maps of the encoder and its warps, or both."""
    film_blocks: Literal["all", "last"] = "all"
    """Blocks whose maps are modulated, after the normalisation of each 3x3 convolution. Code: the last."""
    film_input: Literal["maps", "means"] = "maps"
    """What modulates the maps of a block: the block's input at the same position, or (code) its mean over positions;
    a warp is modulated by its own input. Each image is modulated by itself."""
    film_moves: bool = False
    """Whether the modulation of adapted blocks moves in the inner loop, and is shown to R (code)."""
    batch: Literal["joint", "apart"] = "joint"
    """Whether support and query images are normalised together during adaptation. With normalisation="support" or
    "running" statistics come from elsewhere, and this has no effect."""
    final_batch: Literal["query", "joint"] = "query"
    """The same for the prediction of the query images after adaptation; the paper does not say."""
    momentum: float = 0.0
    """Nesterov momentum of the inner loop, which starts anew in each task. Code: 0.9."""
    weight_decay: float = 0.0
    """Of the inner loop, added to the gradient. Code: 5e-4."""

    def __post_init__(self) -> None:
        """Checks what goes together."""
        if self.warp_norm and self.warp_place == "convolution":
            raise ValueError(
                "warp_norm=True needs warp_place='block': after a convolution, the block's own normalisation follows"
            )
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                f"momentum={self.momentum} must lie in [0, 1) and weight_decay={self.weight_decay} must not be negative"
            )

    def only(self, *components: str) -> "Biases":
        """With those of COMPONENTS alone, and a learned initialisation: a row of table 3 or 4 of the paper.

        Raises:
            ValueError: an unknown component.
        """
        unknown = set(components) - set(COMPONENTS)
        if unknown:
            raise ValueError(f"unknown component {', '.join(sorted(unknown))}; choose from {', '.join(COMPONENTS)}")
        off: dict[str, Any] = {"warps": "none", "film": "none"}
        return dataclasses.replace(
            self, **{name: off.get(name, False) for name in COMPONENTS if name not in components}
        )


PAPER = Biases()
"""As the paper's equations say."""

CODE = Biases(
    adapted="last",
    affine=False,
    initialisation="adapted",
    head="random_row",
    warps="last",
    warp_place="block",
    warp_norm=True,
    transductive_net="shared",
    scores="given",
    loss_output="smooth_leaky_relu",
    biases="uniform",
    moments="detached",
    norms="l2_l2",
    film_blocks="last",
    film_input="means",
    film_moves=True,
    momentum=0.9,
    weight_decay=5e-4,
)
"""As the last revision of the released code does it: for encoders that are pre-trained, as most of the encoder stays.
Where no relation network is at hand, take scores="prototypes"."""

TABLE_3: dict[str, tuple[str, ...]] = {
    "initialisation": (),
    "+ preconditioner": ("warps",),
    "+ loss": LOSSES,
    "+ preconditioner, loss": ("warps", *LOSSES),
    "NPBML": COMPONENTS,
}
"""Rows of table 3 as arguments of `Biases.only`."""
TABLE_4: dict[str, tuple[str, ...]] = {"base": (), **{name: (name,) for name in LOSSES}, "all three": LOSSES}
"""Rows of table 4, likewise."""


@dataclasses.dataclass(frozen=True)
class OuterSettings:
    """The outer optimiser of NPBML; defaults as in the paper (the steps by a reviewer's account)."""

    rate: float = 1e-5
    """Learning rate of Adam at first."""
    final_rate: float = 1e-5
    """And at the end, along a cosine. Code: 1e-6."""
    weight_decay: float = 0.0
    """Above zero it is AdamW, as in one revision of the code, whose value is not known."""
    steps: int = 30_000
    """Outer steps. Code: 60,000."""
    clip: float | None = None
    """Longest outer gradient: the networks of the loss are steep where weights are large. None, as in the paper and in
    the last revision of the code: however long. (Earlier ones cut each entry at 10.)"""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.rate, self.final_rate, 1.0 if self.clip is None else self.clip) <= 0 or self.steps < 1:
            raise ValueError(f"{self}: rate, final_rate and clip must be positive, and steps at least 1")

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser."""
        rate = optax.cosine_decay_schedule(self.rate, self.steps, self.final_rate / self.rate)
        adam = optax.adamw(rate, weight_decay=self.weight_decay)
        return adam if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), adam)


OUTER_PAPER = OuterSettings()
OUTER_CODE = OuterSettings(final_rate=1e-6, steps=60_000)
