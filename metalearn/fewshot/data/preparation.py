"""From stored bytes to what a network sees: scaling, normalisation and random changes of each image.

The constants and the changes (crop, flip, colour) are those of the code of Raymond et al. (2024), which changes images
in pre-training only.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

# Weights of red, green and blue in the grey of a colour (ITU-R 601).
_GREY = (0.299, 0.587, 0.114)
# Shares of the area, and ratios of width to height, of a resized crop.
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images are prepared: changed at random, each by itself, scaled to 0 .. 1 and normalised."""

    mean: tuple[float, ...] = ()
    """Subtracted from each channel after scaling; empty: 0."""
    deviation: tuple[float, ...] = ()
    """What each channel is divided by then; empty: 1."""
    crop: str = "none"
    """"none"; "padded": moved by up to `padding` pixels with black where nothing is; "resized": a part of 8 to 100 %
    of the area and a ratio of width to height of 3/4 to 4/3, resampled to the full size."""
    padding: int = 0
    """Pixels that a padded crop may move an image by."""
    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    jitter: float = 0.0
    """Brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter, each drawn by itself."""

    def __post_init__(self) -> None:
        """Checks that the fields fit together."""
        if self.crop not in ("none", "padded", "resized"):
            raise ValueError(f"crop={self.crop!r} must be 'none', 'padded' or 'resized'")
        if (self.crop == "padded") != (self.padding > 0):
            raise ValueError(f"padding={self.padding} must be at least 1 with crop='padded', and 0 without")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter} must lie in 0 .. 1")
        if len(self.mean) != len(self.deviation) or not all(value > 0 for value in self.deviation):
            raise ValueError(f"mean={self.mean} and deviation={self.deviation} need a value per channel, none below 0")

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """The prepared images.

        Args:
            key: typed key; every image gets random numbers of its own.
            images: uint8 [images, height, width, channels].

        Returns:
            float32, of the same shape.

        Raises:
            ValueError: a mean for another number of channels.
        """
        if self.mean and len(self.mean) != images.shape[-1]:
            raise ValueError(f"mean={self.mean} is for {len(self.mean)} channels; the images have {images.shape[-1]}")
        images = images.astype(jnp.float32) / 255
        if self.crop != "none" or self.flip or self.jitter:
            # One draw for everything, as each further one costs a second of compilation.
            images = jax.vmap(self._changed)(jax.random.uniform(key, (len(images), 8)), images)
        if self.mean:
            images = (images - jnp.array(self.mean, jnp.float32)) / jnp.array(self.deviation, jnp.float32)
        return images

    def _changed(self, numbers: jax.Array, image: jax.Array) -> jax.Array:
        place, part, mirrored, colours = numbers[:2], numbers[2:4], numbers[4], numbers[5:]
        if self.crop == "padded":
            image = _moved(place, image, self.padding)
        elif self.crop == "resized":
            image = _resized_crop(place, part, image)
        if self.flip:
            image = jnp.where(mirrored < 0.5, image[:, ::-1], image)
        return _jittered(1 + self.jitter * (2 * colours - 1), image) if self.jitter else image


_IMAGENET = Preparation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = Preparation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
PLAIN = Preparation()
"""Images as they are, scaled to 0 .. 1."""
USUAL = {
    "mini-imagenet": _IMAGENET,
    "tiered-imagenet": _IMAGENET,
    "cifar-fs": _CIFAR,
    "fc100": _CIFAR,
    "omniglot": PLAIN,
    "glyphs": PLAIN,
}
"""The usual preparation of each data set, by its name: normalisation without random changes."""


def augmented(preparation: Preparation) -> Preparation:
    """The same normalisation with the random changes of pre-training: resized crops, flips and jitter of 0.4."""
    return dataclasses.replace(preparation, crop="resized", padding=0, flip=True, jitter=0.4)


def _moved(place: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """place: [2] uniform in 0 .. 1."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jnp.floor(place * (2 * padding + 1)).astype(jnp.int32)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def _resized_crop(place: jax.Array, part: jax.Array, image: jax.Array) -> jax.Array:
    """place, part: [2] uniform in 0 .. 1."""
    area = _AREA[0] + (_AREA[1] - _AREA[0]) * part[0]
    log_ratio = math.log(_RATIO[0]) + (math.log(_RATIO[1]) - math.log(_RATIO[0])) * part[1]
    # Shares of height and width. A part that does not fit is cut, where the published code draws again.
    share = jnp.minimum(jnp.sqrt(area) * jnp.exp(jnp.array([-0.5, 0.5]) * log_ratio), 1)
    start = place * (1 - share) * jnp.array(image.shape[:2], jnp.float32)
    resampled = jax.image.scale_and_translate(image, image.shape, (0, 1), 1 / share, -start / share, method="linear")
    return jnp.clip(resampled, 0, 1)


def _jittered(factors: jax.Array, image: jax.Array) -> jax.Array:
    """Changes brightness, then contrast, then saturation (which grey images have not) by [3] factors."""
    brightness, contrast, saturation = factors
    image = jnp.clip(brightness * image, 0, 1)
    grey = _grey(image).mean()
    image = jnp.clip(grey + contrast * (image - grey), 0, 1)
    return jnp.clip(_grey(image) + saturation * (image - _grey(image)), 0, 1)


def _grey(image: jax.Array) -> jax.Array:
    return image if image.shape[-1] == 1 else (image @ jnp.array(_GREY, image.dtype))[..., None]
