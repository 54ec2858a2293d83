"""Beyond the paper: gains by a learner of short sight."""

import dataclasses

import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import panels
from experiments.learning_effort.beyond import beyond, by_point, initial_weights, presets_of
from experiments.learning_effort.gains import Gains, on_gaussians
from experiments.learning_effort.studies import Experiment, Outcome, Study
from metalearn.effort import foresight
from metalearn.run import Progress, mean_with_band


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight(Gains):
    """Gains by a learner that looks only some states ahead: once at the start, or again and again."""

    look_aheads: tuple[int, ...]
    """States looked at, up to `steps`, in rising order."""
    replan: int = 10
    """Steps from one plan to the next, at most the look-ahead."""

    def validate(self) -> None:
        """Checks the look-aheads."""
        super().validate()
        if list(self.look_aheads) != sorted({*self.look_aheads, self.steps}) or self.look_aheads[0] < 1:
            raise ValueError(f"look_aheads={self.look_aheads} must rise from 1 or more to steps={self.steps}")
        if self.replan < 1:
            raise ValueError(f"replan={self.replan} must be at least 1")


def sighted(settings: Sight) -> Study:
    """One plan at the start for the first `horizon` states; later states are left to learning alone."""
    study = on_gaussians(settings)
    return study._replace(judged=dataclasses.replace(study.problem, horizon=None), flow=None)


def replanned(settings: Sight) -> dict[str, np.ndarray]:
    """V of planning again and again, [look-aheads, seeds]."""
    study = sighted(settings)
    starts = [study.neutral(weights) for weights in initial_weights(settings, study)]
    looks = settings.look_aheads
    values = np.zeros((len(looks), len(starts)))
    with Progress(values.size, "planning again, runs") as progress:
        for place, look in enumerate(looks):
            for seed, start in enumerate(starts):
                values[place, seed] = foresight.receding_horizon(
                    study.judged, start, study.scenario, study.lower, study.upper, look, min(settings.replan, look),
                    settings.iterations, settings.tolerance,
                ).value  # fmt: skip
                progress.update(place * len(starts) + seed + 1)
    return {"replanned": values}


def _shares(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Of what control can gain at most, planning once and planning again gain this share, [look-aheads, seeds] each."""
    assert outcome.further is not None
    without = by_point(outcome, outcome.baseline.value)[0]
    once = by_point(outcome, outcome.control.value)
    return tuple((value - without) / (once[-1] - without) for value in (once, outcome.further["replanned"]))


def _sight_panel(axes: Axes, outcome: Outcome) -> None:
    looks = np.array(outcome.settings.look_aheads)
    labels = ("planned once", "planned again and again")
    for share, label, colour in zip(_shares(outcome), labels, panels.COLOURS, strict=False):
        mean_with_band(axes, looks, share.T, label=label, color=colour)
        axes.plot(looks, share.mean(1), "o", ms=4, color=colour)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(
        xlabel="look-ahead (states)", ylabel="share of the best gain in V", xscale="log", title="What sight is worth"
    )
    axes.legend()


def _sight_gains(axes: Axes, outcome: Outcome) -> None:
    first = outcome.lanes(slice(None, None, outcome.settings.seeds))
    panels.family(axes, first, first.points["horizon"], first.control.measures["G1"], "look-ahead", log=True)
    axes.set(ylabel="RMS $G_1$", title="Gains, planned once")


SIGHT_CLAIMS = (
    beyond("Planning again is no worse than planning once with the same sight",
           "share of the best gain: least difference over look-aheads",
           lambda o: (_shares(o)[1] - _shares(o)[0]).min(0), above=-0.01, steps=400),
    beyond("To see a quarter of the time ahead is worth most of the gain if one plans again",
           "share of the best gain", lambda o: _shares(o)[1][-3], above=0.5, steps=400),
    beyond("Very short sight gains little", "share of the best gain, shortest look-ahead",
           lambda o: _shares(o)[1][0], below=0.2, steps=400),
)  # fmt: skip
SIGHT = Sight(
    steps=400, dt=1e-2, hidden=6, decay=0.01, look_aheads=(10, 25, 50, 100, 200, 400),
    optimizer="quasi_newton", rate=1.0, iterations=100, tolerance=1e-3, seeds=3,
)  # fmt: skip

EXPERIMENTS = {
    "short_sight": Experiment(
        "Beyond the paper: gains by a learner of short sight",
        presets_of(SIGHT, {"steps": 40, "look_aheads": (1, 10, 40)}),
        sighted,
        (_sight_panel, _sight_gains),
        SIGHT_CLAIMS,
        points=lambda settings: {"horizon": np.array(settings.look_aheads)},
        numbers=lambda outcome: dict(zip(("share_once", "share_again"), _shares(outcome), strict=True)),
        further=replanned,
    ),
}
