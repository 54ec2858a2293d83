"""The results page: what was run, and of each experiment a paragraph, its figures, its claims and its numbers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.formal_languages.lab.sections import Section
from metalearn.run import RunPaths
from metalearn.run.claims import table
from metalearn.run.files import write_atomic


class Run(NamedTuple):
    """What was run.

    title: of the page.
    command: that runs it again.
    sizes: what the preset set, in words ("units": "64").
    minutes: by what they were spent on.
    """

    title: str
    command: str
    sizes: Mapping[str, str]
    minutes: Mapping[str, float]


def page(run: Run, sections: Sequence[Section]) -> str:
    """Markdown, its figures in `figures/` beside it."""
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    counts = [f"{sum(verdict.word == word for verdict in verdicts)} {words}" for word, words in _WORDS.items()]
    parts = [
        f"# {run.title}",
        f"    {run.command}",
        "\n".join(f"* {name}: {value}" for name, value in run.sizes.items()),
        f"Took {sum(run.minutes.values()):.1f} minutes: "
        + ", ".join(f"{name} {minutes:.1f}" for name, minutes in run.minutes.items())
        + ".",
        f"Of {len(verdicts)} claims {', '.join(counts)}. A claim holds when its whole interval satisfies it and fails "
        "when none of it does. Intervals are not corrected for their number: of twenty claims about nothing, one would "
        "be decided. n counts cells of a table of seeds and targets, which share seeds and targets and are not "
        "independent; the intervals take that into account.",
    ]
    for section in sections:
        parts += [f"## {section.title}", section.paragraph]
        parts += [f"![{drawing.caption}](figures/{name}.png)" for name, drawing in section.drawings.items()]
        if section.verdicts:
            parts.append(table(section.verdicts).rstrip())
        for caption, rows in section.tables.items():
            parts += [f"<details><summary>{caption}</summary>", rows.rstrip(), "</details>"]
    return "\n\n".join(parts) + "\n"


def write_page(paths: RunPaths, run: Run, sections: Sequence[Section]) -> None:
    """Draws every figure into the run directory and writes `results.md`."""
    for section in sections:
        for name, drawing in section.drawings.items():
            drawing.draw(paths.figure(name))
    write_atomic(paths.root / "results.md", page(run, sections))


_WORDS = {"holds": "hold", "fails": "fail", "inconclusive": "are inconclusive"}
