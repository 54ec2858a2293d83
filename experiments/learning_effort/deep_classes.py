"""Beyond the paper: engagement with nodes of a tree in a network of four layers."""

import dataclasses

from experiments.learning_effort import class_engagement, engagement, panels
from experiments.learning_effort.beyond import SOURCE, presets_of
from experiments.learning_effort.studies import Experiment, Study, study_of
from metalearn.effort import controls, datasets, networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep(class_engagement.TreeClasses):
    """Engagement with the nodes of a tree, in a deeper network."""

    layers: int = 4
    """Weight matrices; 2 is the paper's network."""


def deep(settings: Deep) -> Study:
    """Nodes of a tree."""
    tree = datasets.semantic(settings.levels)
    widths = (len(tree.moments.x), *[settings.hidden] * (settings.layers - 1), len(tree.outputs))
    network = networks.linear(widths, settings.scale)
    control = controls.class_engagement(len(tree.outputs), settings.beta)
    groups = engagement.by_level(tree)
    return study_of(settings, network, control, tree, lambda weights, phi: {"engagement": groups @ phi})


DEEP_CLAIMS = (
    *(claim._replace(source=SOURCE) for claim in engagement.VALUE),
    engagement.TURNS._replace(
        statement="In deep networks too engagement turns from the root to finer levels", source=SOURCE, steps=1000
    ),
)  # fmt: skip
DEEP = Deep(
    steps=6000, dt=5e-3, hidden=12, levels=3, scale=0.15, beta=5.0, start=0.0,
    optimizer="quasi_newton", rate=1.0, iterations=150, tolerance=1e-3,
)  # fmt: skip

EXPERIMENTS = {
    "deep_classes": Experiment(
        "Beyond the paper: engagement with nodes of a tree in a network of four layers",
        presets_of(DEEP, {"steps": 40, "hidden": 4, "batch": 8}),
        deep,
        (
            panels.loss(),
            panels.reward,
            panels.gap,
            engagement.groups(engagement.level_names, r"engagement $\varphi$", "Engagement, mean of each level"),
        ),
        DEEP_CLAIMS,
        columns=4,
    ),
}
