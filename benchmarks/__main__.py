"""Measures speed and memory, and prints one table.

    python -m benchmarks
    python -m benchmarks --only=lstm --json=benchmarks.json

--only takes (parts of) names of groups, separated by commas; --json also writes the rows to a file. Nothing else should
run on the machine meanwhile.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks import (
    distinct_strings,
    first_step,
    learning_effort,
    lstm_meta_gradient,
    maml,
    meta_training,
    npbml,
    pretraining,
    top_strings,
)
from benchmarks.harness import Benchmark, measure, select, table, write_json
from metalearn.run import use_all_cores
from metalearn.run.progress import default_console

GROUPS: dict[str, Benchmark] = {
    "lstm_meta_gradient": lstm_meta_gradient.rows,
    "meta_training": meta_training.rows,
    "maml": maml.rows,
    "npbml": npbml.rows,
    "pretraining": pretraining.rows,
    "distinct_strings": distinct_strings.rows,
    "top_strings": top_strings.rows,
    "first_step": first_step.rows,
    "learning_effort": learning_effort.rows,
}

_ONLY = flags.DEFINE_string("only", None, f"Measure only these, by (part of) their names: {', '.join(GROUPS)}.")
_JSON = flags.DEFINE_string("json", None, "File to write the rows to, as a list of objects.")


def main(argv: Sequence[str]) -> None:
    """What the command line runs. Ends with status 1 if a benchmark failed."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments {' '.join(argv[1:])!r}: flags start with --.")
    try:
        groups = select(GROUPS, _ONLY.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    use_all_cores()
    rows, failed = measure(groups, default_console())
    print(table(rows))
    if _JSON.value:
        write_json(rows, _JSON.value)
    if failed:
        sys.exit(f"error: failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    app.run(main)
