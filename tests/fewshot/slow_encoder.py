"""Encoders as loops over positions in numpy, after their definitions: the oracle of the fast ones."""

import numpy as np


def convolution(maps, kernel):
    """maps: [N, H, W, I]; kernel: [3, 3, I, O]; zeros outside."""
    images, height, width, _ = maps.shape
    out = np.zeros((images, height, width, kernel.shape[-1]))
    for y in range(height):
        for x in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        out[:, y, x] += maps[:, y + dy, x + dx] @ kernel[dy + 1, dx + 1]
    return out


def moments(maps):
    rows = maps.reshape(-1, maps.shape[-1])
    return rows.mean(0), ((rows - rows.mean(0)) ** 2).mean(0)


def batch_norm(maps, norm, given=None):
    mean, variance = moments(maps) if given is None else given
    return norm.scale * (maps - mean) / np.sqrt(variance + 1e-5) + norm.offset


def pool(maps):
    images, height, width, channels = maps.shape
    out = np.zeros((images, height // 2, width // 2, channels))
    for y in range(height // 2):
        for x in range(width // 2):
            out[:, y, x] = maps[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].max((1, 2))
    return out


def relu(maps):
    return np.maximum(maps, 0)


def four_conv(params, images):
    """Maps of the last block: convolution, normalisation, ReLU, pooling, in the published order."""
    for (kernel,), (norm,) in zip(params.kernels, params.norms, strict=True):
        images = pool(relu(batch_norm(convolution(images, kernel), norm)))
    return images


def resnet12(params, images):
    for kernels, norms in zip(params.kernels, params.norms, strict=True):
        maps = images
        for which in range(3):
            maps = batch_norm(convolution(maps if which == 0 else relu(maps), kernels[which]), norms[which])
        images = pool(relu(maps + batch_norm(images @ kernels[3], norms[3])))
    return images
