"""Every network learns each target language from N strings by the procedure it brought along, and is scored."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.formal_languages.lab.adaptation import Targets
from experiments.formal_languages.lab.training import model_of
from experiments.learned_procedures.config import Condition, Config
from experiments.learned_procedures.learner import acting
from experiments.learned_procedures.switches import Switched, switchable, switched, switches
from metalearn.core import objectives, unroll
from metalearn.languages.episodes import Episode
from metalearn.languages.model import Strings
from metalearn.languages.nine import NINE
from metalearn.languages.tokens import PAD, encode, letters_to_symbols

_STARTS = 2**31 - 14  # what is drawn from the key of everything; see training.py


class Learners:
    """Adaptation and scores by one compiled program, for all conditions, sources and numbers of strings."""

    def __init__(self, config: Config):
        """See the class."""
        self._config = config
        self._targets = Targets(config.lab)

    def scores(
        self,
        condition: Condition,
        rate: float,
        meta: Any,
        sources: int,
        report: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """[strings, metrics, sources, seeds, targets], each a mean over draws.

        Args:
            rate: of the inner loop at neutral.
            meta: leaves [sources * seeds, ...].
            sources: how many.
            report: called with the number of (source, N) done so far.
        """
        config = self._config
        learned = switches(*condition)
        by_source = jax.tree.map(lambda x: np.asarray(x).reshape(sources, config.seeds, *x.shape[1:]), meta)
        found = []
        for source in range(sources):
            own = jax.tree.map(lambda x, source=source: x[source], by_source)
            for strings in config.targets.strings:
                rows = []
                for draw in range(config.targets.draws):
                    adapted = self._adapted(own, rate, learned, self.strings(strings, draw), self._keys(strings, draw))
                    rows.append(self._targets.score("lstm", adapted))
                found.append(np.mean(rows, axis=0))
                report(len(found))
        return np.stack(found).reshape(sources, -1, *found[0].shape).transpose(1, 2, 0, 3, 4)

    @functools.cached_property
    def _adapted(self) -> Callable[..., Any]:
        """(meta, leaves [seeds, ...], rate, learned, strings, keys) -> weights in force, [seeds, targets, ...]."""
        updates, model = self._config.test_updates, model_of(self._config.lab, "lstm", dropout=False)
        process, objective = switchable(model), objectives.terminal(updates)

        def of_one(meta, rate, learned, strings: Strings, key):
            support = jax.tree.map(lambda x: jnp.repeat(x[None], updates, axis=0), strings)
            task = Switched(Episode(support, strings), rate, learned)
            return acting(switched(meta, learned), unroll(process, objective, meta, task, key).final.params)

        # Targets side by side, and seeds, each with what it has learned.
        return jax.jit(jax.vmap(jax.vmap(of_one, (None, None, None, 0, 0)), (0, None, None, 0, 0)))

    def strings(self, count: int, draw: int) -> Strings:
        """What is learned from, the same in all conditions: tokens [seeds, targets, most strings, length].

        Rows beyond `count` do not count, so that one program serves all N.
        """
        targets, seeds = self._config.targets, self._config.seeds
        rows = []
        for seed in range(seeds):
            for name in targets.languages:
                alphabet = NINE[name].language.alphabet
                texts = self._targets.training_strings(name, seed + seeds * draw, count)
                rows.append(encode([letters_to_symbols(s, alphabet) for s in texts], targets.length))
        more = max(targets.strings) - count
        tokens = np.pad(np.stack(rows), [(0, 0), (0, more), (0, 0)], constant_values=PAD)
        tokens = tokens.reshape(seeds, len(targets.languages), *tokens.shape[1:])
        counts = np.broadcast_to(np.arange(count + more) < count, tokens.shape[:-1])
        return Strings(tokens, counts.astype(np.float32))

    def _keys(self, count: int, draw: int) -> jax.Array:
        """[seeds, targets]: random weights are the same in all conditions, too."""
        key = jax.random.key(self._config.seed)
        for number in (_STARTS, count, draw):
            key = jax.random.fold_in(key, number)
        return jax.random.split(key, (self._config.seeds, len(self._config.targets.languages)))
