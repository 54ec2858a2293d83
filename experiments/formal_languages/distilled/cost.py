"""What a run will cost, from its configuration alone: `--dry_run`."""

import jax

from experiments.formal_languages.distilled.config import Config
from experiments.formal_languages.distilled.training import model_of

# Symbols of a string of the metagrammar, and of a query string after equal ones are merged; measured on 4,000 drawn
# languages (mean length 6.7, longer in diverse languages), plus START and END.
_SUPPORT_TOKENS, _QUERY_TOKENS = 14.0, 24.0
# Rates at which these recurrent networks run, for orientation: effective, not peak.
_RATES = {"2-core CPU at 30 GFLOP/s": 30e9, "one GPU at 5 TFLOP/s": 5e12}


def describe(config: Config) -> str:
    """Parameters, floating-point operations, memory and hours."""
    params = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model_of(config).init, jax.random.key(0))))
    sizes, training = config.episodes, config.training
    updates = (sizes.min_updates + sizes.max_updates) / 2
    per_token = 2.0 * params
    support = sizes.support_strings * min(_SUPPORT_TOKENS, sizes.length)
    query = sizes.query_strings * min(_QUERY_TOKENS, sizes.length)
    judged = updates if training.objective == "every_update" else 1
    # Forward passes that an update and its derivatives are worth; "stepwise" takes each exactly and to first order.
    inner = {"exact": 9, "first_order": 3, "truncated": 9, "stepwise": 12, "displacement": 3}[training.estimator]
    episode = per_token * (inner * updates * support + 3 * judged * query)
    meta = config.seeds * training.steps * training.tasks * episode
    pre = config.seeds * training.steps * training.tasks * per_token * 3 * updates * (support + query)
    strings = sum(15 * max(n, 10) for n in config.evaluation.strings)
    adaptation = 3 * config.seeds * len(config.languages) * strings * 3 * per_token * 12
    total = meta + pre + adaptation
    state = 4 * params * 4  # weights, gradient and AdamW's two moments, float32
    unroll = 4 * params * (sizes.max_updates + 1) * training.tasks
    lines = [
        f"parameters                     {params:,}",
        f"meta-training                  {config.seeds} seeds x {training.steps:,} steps x {training.tasks} languages: "
        f"at most {meta:.2g} FLOP",
        f"pre-training                   the same episodes: at most {pre:.2g} FLOP",
        f"adaptation                     {3 * config.seeds * len(config.languages):,} networks at each N of "
        f"{config.evaluation.strings}: about {adaptation:.2g} FLOP",
        f"memory of the outer step       {state / 2**20:,.0f} MiB of state, {unroll / 2**20:,.0f} MiB for the "
        "weights along an unrolled trajectory; activations come on top",
    ]
    lines += [f"time on {name:<22} {total / rate / 3600:,.2g} hours" for name, rate in _RATES.items()]
    lines.append("Upper bounds: equal query strings are merged before they are scored, which saves most of that work.")
    return "\n".join(lines)
