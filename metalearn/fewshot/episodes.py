"""N-way K-shot episodes, drawn on the device from images in its memory, or from images that stay on disk.

| symbol | name      | meaning                          |
|--------|-----------|----------------------------------|
| N      | `ways`    | classes in an episode            |
| K      | `shots`   | support images of each class     |
|        | `queries` | query images of each class       |
| D^S    | `support` | what the learner learns from     |
| D^Q    | `query`   | what it is judged by             |

An episode draws classes without replacement, and of each its images without replacement, so that support and query
share none (Vinyals et al. 2016). Rows are class-major: the K images of class 0, then those of class 1, ... A label is
the position of the class in the episode; as classes come in random order, it says nothing of what the class is.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.fewshot.data.preparation import PLAIN, Preparation
from metalearn.fewshot.data.storage import Split


class Episode(NamedTuple):
    """A task. Rows are class-major.

    support_x: [ways * shots, height, width, channels] float32; support_y: [ways * shots] int32 in 0 .. ways - 1.
    query_x: [ways * queries, height, width, channels] float32; query_y: [ways * queries] int32.
    """

    support_x: jax.Array
    support_y: jax.Array
    query_x: jax.Array
    query_y: jax.Array


class ImageSet(NamedTuple):
    """The images of a split as arrays on a device.

    images: uint8 [images, height, width, channels], class after class.
    members: int32 [classes, most], the images of each class; -1 fills the rows of classes with fewer than `most`.
    """

    images: jax.Array
    members: jax.Array


@dataclasses.dataclass(frozen=True)
class EpisodeSettings:
    """What an episode consists of."""

    ways: int = 5
    """Classes."""
    shots: int = 1
    """Support images of each class."""
    queries: int = 15
    """Query images of each class."""
    rotations: bool = False
    """Whether each class also counts turned by 90, 180 and 270 degrees, as three more classes (usual for Omniglot)."""

    def __post_init__(self) -> None:
        """Checks that there is something to learn."""
        if min(self.ways, self.shots, self.queries) < 1:
            raise ValueError(f"{self}: ways, shots and queries must be at least 1")

    def check(self, split: Split) -> None:
        """Raises ValueError where the split has too few classes or images for these episodes, or cannot be turned."""
        classes = len(split.classes) * (4 if self.rotations else 1)
        if classes < self.ways:
            raise ValueError(
                f"ways={self.ways}, but {split.name} has {classes} classes{' with rotations' * self.rotations}"
            )
        sizes = np.diff(split.offsets)
        least = int(sizes.argmin())
        if sizes[least] < self.shots + self.queries:
            raise ValueError(
                f"shots={self.shots} and queries={self.queries} need {self.shots + self.queries} images a class, but "
                f"class {split.classes[least]!r} of {split.name} has {sizes[least]}"
            )
        height, width = split.images.shape[1:3]
        if self.rotations and height != width:
            raise ValueError(f"rotations need square images; those of {split.name} have {height} x {width} pixels")


def members_of(split: Split) -> np.ndarray:
    """The table `members` of an ImageSet."""
    sizes = np.diff(split.offsets)
    column = np.arange(sizes.max())
    return np.where(column < sizes[:, None], split.offsets[:-1, None] + column, -1).astype(np.int32)


def on_device(split: Split) -> ImageSet:
    """The split in the memory of the default device: one byte a value, 813 MB for the largest of mini-ImageNet."""
    return ImageSet(jnp.asarray(np.asarray(split.images)), jnp.asarray(members_of(split)))


@functools.partial(jax.jit, static_argnames=("settings", "preparation"))
def sample(key: jax.Array, images: ImageSet, settings: EpisodeSettings, preparation: Preparation = PLAIN) -> Episode:
    """One episode; vmap over keys for several.

    The sizes are not checked here, as they are traced: see `EpisodeSettings.check`.

    Args:
        key: typed key.
        images: see `on_device`.
        settings, preparation: static; equal ones share a compiled program.
    """
    rows, turns = draw_rows(key, images.members, settings)
    return assemble(key, images.images[rows], turns, settings, preparation)


@functools.partial(jax.jit, static_argnames=("batch", "preparation"))
def sample_images(
    key: jax.Array, images: ImageSet, batch: int, preparation: Preparation = PLAIN
) -> tuple[jax.Array, jax.Array]:
    """Images for ordinary classification over all classes, as in pre-training: uniform, with replacement.

    Returns:
        x [batch, height, width, channels] float32; y [batch] int32, the number of the class in the split.
    """
    draw, rest = jax.random.split(key)
    rows = jax.random.randint(draw, (batch,), 0, len(images.images))
    # Images lie class after class, so the first members of the classes ascend.
    labels = jnp.searchsorted(images.members[:, 0], rows, side="right").astype(jnp.int32) - 1
    return preparation(rest, images.images[rows]), labels


class EpisodeBatches:
    """Batches of episodes by outer step: `batches(step)` -> Episode whose leaves have a leading axis [tasks].

    Episode i is a pure function of (key, i), whether the images are on the device or on disk.

    Args:
        key: typed key; episode i is drawn from `fold_in(key, i)`.
        tasks: episodes in a batch.
        split: where the images come from.
        settings: of an episode.
        preparation: of each image, anew in each episode.
        streamed: False: all images are copied to the device first, and episodes are drawn there. True: images stay
            where they are, as for tiered-ImageNet, memory-mapped from disk, and only those of a batch are copied.

    Raises:
        ValueError: see `EpisodeSettings.check`.
    """

    def __init__(
        self,
        key: jax.Array,
        tasks: int,
        split: Split,
        settings: EpisodeSettings,
        preparation: Preparation = PLAIN,
        streamed: bool = False,
    ):
        """See the class."""
        settings.check(split)
        if tasks < 1:
            raise ValueError(f"tasks={tasks} must be at least 1")
        self._key, self._tasks = key, tasks
        if streamed:
            members = jnp.asarray(members_of(split))
            draw = jax.jit(jax.vmap(lambda key: draw_rows(key, members, settings)))
            finish = jax.jit(jax.vmap(lambda key, images, turns: assemble(key, images, turns, settings, preparation)))

            def batch(keys):
                rows, turns = draw(keys)
                return finish(keys, gathered(split.images, np.asarray(rows)), turns)

            self._batch = batch
        else:
            images = on_device(split)
            draw_all = jax.jit(
                lambda keys, images: jax.vmap(lambda key: sample(key, images, settings, preparation))(keys)
            )
            self._batch = lambda keys: draw_all(keys, images)

    def __call__(self, step: int) -> Episode:
        """The batch of outer step `step`."""
        return self._batch(_keys(self._key, step, self._tasks))


@functools.partial(jax.jit, static_argnames="tasks")
def _keys(key: jax.Array, step: jax.Array, tasks: int) -> jax.Array:
    return jax.vmap(lambda task: jax.random.fold_in(key, step * tasks + task))(jnp.arange(tasks))


def draw_rows(key: jax.Array, members: jax.Array, settings: EpisodeSettings) -> tuple[jax.Array, jax.Array]:
    """Which images make an episode.

    Args:
        key: of the episode.
        members: int32 [classes, most], see `ImageSet`.

    Returns:
        rows: [ways, shots + queries] int32, all different; turns: [ways], by how many right angles to turn the images.
    """
    draw, _ = jax.random.split(key)
    (classes, most), turned = members.shape, 4 if settings.rotations else 1
    # Of independent scores, the places of the largest are a sample without replacement, in random order. All are
    # drawn at once, as drawing dominates the time of compilation.
    scores = jax.random.bits(draw, (classes * turned + settings.ways * most,), jnp.uint32) >> 1
    of_classes, of_images = jnp.split(scores.astype(jnp.int32), [classes * turned])
    _, chosen = jax.lax.top_k(of_classes, settings.ways)
    turns, chosen = jnp.divmod(chosen, classes)
    candidates = members[chosen]
    _, picked = jax.lax.top_k(
        jnp.where(candidates >= 0, of_images.reshape(candidates.shape), -1), settings.shots + settings.queries
    )
    return jnp.take_along_axis(candidates, picked, 1), turns


def assemble(
    key: jax.Array, images: jax.Array, turns: jax.Array, settings: EpisodeSettings, preparation: Preparation
) -> Episode:
    """The episode of the images that were drawn.

    Args:
        key: of the episode, as for `draw_rows`.
        images: uint8 [ways, shots + queries, height, width, channels]. turns: [ways].
    """
    _, changes = jax.random.split(key)
    if settings.rotations:
        images = jax.vmap(_turned)(images, turns)
    flat = images.reshape(-1, *images.shape[2:])
    prepared = preparation(changes, flat)
    prepared = prepared.reshape(*images.shape[:2], *prepared.shape[1:])

    def part(x):
        return x.reshape(-1, *x.shape[2:]), jnp.repeat(jnp.arange(settings.ways, dtype=jnp.int32), x.shape[1])

    return Episode(*part(prepared[:, : settings.shots]), *part(prepared[:, settings.shots :]))


def _turned(images: jax.Array, turns: jax.Array) -> jax.Array:
    half = jnp.where(turns >= 2, images[:, ::-1, ::-1], images)
    return jnp.where(turns % 2 == 1, jnp.rot90(half, axes=(1, 2)), half)


def gathered(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """images[rows], read from disk in the order in which they lie there."""
    flat, order = np.unique(rows, return_inverse=True)
    return np.asarray(images[flat])[order.reshape(rows.shape)]
