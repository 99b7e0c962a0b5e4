"""Made-up data that a network can learn within a few steps; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Batch = Callable[[int], Sequence[np.ndarray]]


def images(size: int, channels: int = 3, classes: int = 10, count: int = 16, channels_first: bool = False) -> Batch:
    """(images [n, size, size, channels], labels [n]): a smooth pattern for each class, shifted, with noise."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(classes, 4, 4, channels))
    patterns = coarse.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]

    def batch(step: int) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((1, step))
        labels = rng.integers(0, classes, count)
        shift = tuple(rng.integers(-2, 3, 2))
        x = np.roll(patterns[labels], shift, (1, 2)) + 0.3 * rng.normal(size=(count, size, size, channels))
        x = x.astype(np.float32)
        return (x.transpose(0, 3, 1, 2) if channels_first else x), labels.astype(np.int32)

    return batch


def tokens(vocabulary: int, length: int, count: int = 8) -> Batch:
    """(tokens [n, length + 1],): a Markov chain in which each token has four likely successors."""
    successors = np.random.default_rng(0).integers(1, vocabulary, (vocabulary, 4))

    def batch(step: int) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((1, step))
        sequence = [rng.integers(1, vocabulary, count)]
        for _ in range(length):
            sequence.append(successors[sequence[-1], rng.choice(4, count, p=[0.7, 0.1, 0.1, 0.1])])
        return (np.stack(sequence, 1).astype(np.int32),)

    return batch


def regression(inputs: Sequence[int], outputs: Sequence[int], count: int = 64) -> Batch:
    """(x [n, *inputs], y [n, *outputs]): y is a smooth function of x, with outputs of size one."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(int(np.prod(inputs)), 8)) / np.sqrt(np.prod(inputs))
    second = rng.normal(size=(8, int(np.prod(outputs)))) / 2

    def batch(step: int) -> Sequence[np.ndarray]:
        x = np.random.default_rng((1, step)).normal(size=(count, *inputs))
        y = np.sin(2 * x.reshape(count, -1) @ first) @ second
        return x.astype(np.float32), y.reshape(count, *outputs).astype(np.float32)

    return batch


def sequences(length: int, features: int, classes: int, count: int = 16) -> Batch:
    """(sequences [n, length, features], labels [n]): oscillations whose frequency tells the class."""
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, features)

    def batch(step: int) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((1, step))
        labels = rng.integers(0, classes, count)
        time = np.arange(length)[:, None] / length
        angle = 2 * np.pi * (1 + labels[:, None, None]) * time + phases + rng.normal(size=(count, 1, 1)) / 4
        x = np.sin(angle) + 0.1 * rng.normal(size=(count, length, features))
        return x.astype(np.float32), labels.astype(np.int32)

    return batch


def two_moons(count: int = 256) -> Batch:
    """(points [n, 2],): two half circles, the density that flows are shown on."""

    def batch(step: int) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((1, step))
        angle, upper = rng.uniform(0, np.pi, count), rng.integers(0, 2, count)
        x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
        y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
        return (np.stack([x, y], 1).astype(np.float32) + 0.1 * rng.normal(size=(count, 2)).astype(np.float32),)

    return batch


def fields(points: int, channels: int = 1, dimensions: int = 1, count: int = 16) -> Batch:
    """(u [n, channels, *points], v of the same shape): v is u after some diffusion on a periodic domain."""

    def batch(step: int) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((1, step))
        axes = tuple(range(-dimensions, 0))
        waves = np.meshgrid(*[np.fft.fftfreq(points, 1 / points)] * dimensions, indexing="ij")
        square = sum(wave**2 for wave in waves)
        noise = np.fft.fftn(rng.normal(size=(count, channels, *[points] * dimensions)), axes=axes)
        rough = noise * np.exp(-square / 50)
        u, v = (np.fft.ifftn(f, axes=axes).real for f in (rough, rough * np.exp(-square / 30)))
        scale = u.std()
        return (u / scale).astype(np.float32), (v / scale).astype(np.float32)

    return batch
