"""The features of a convolution, and their Gram matrix without the matrix of patches.

With u(y) what a row of the kernel sees of row y of the padded input, [sample, (column, channel)], the block of the Gram
matrix for kernel rows a and b is a sum over output rows t,

    G[a, b] = sum_t u(s t + d a)^T u(s t + d b),

s the stride and d the kernel's dilation. It depends on b - a but for the borders: with q = s / gcd(s, d),

    G[a + q, b + q] = G[a, b] + the rows that enter below - those that leave above,

so that the products of the first q kernel rows stand for those of all k, and u takes 1/k of the patches' memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lnb._features._map import FeatureMap, expand_weights, subsample, weighted_mean
from lnb._numerics import contract, gram_of, statistics_dtype

_FEWEST = 256  # features from which on the products saved outweigh the copies they need


@dataclass(frozen=True)
class ConvolutionFeatures(FeatureMap):
    """The features of a convolution: for each output pixel, the input under the kernel (i = channel, position).

    `input_layout` names the axes of the input that are batch, channel and space, in this order; `channels` is the
    number of input channels of a group.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    input_layout: tuple[int, ...]
    kernel_size: tuple[int, ...]
    channels: int
    factor: float = 1.0

    @property
    def sample_rank(self) -> int:
        return 1 + len(self.kernel_size)

    def subsample(self, recorded: Array, every: int) -> Array:
        return subsample(recorded, self.input_layout[:1], every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        batch = recorded.shape[self.input_layout[0]]
        pixels = jax.eval_shape(self.matrix, recorded).shape[1] // batch
        return jnp.repeat(expand_weights(weights, [batch]), pixels)

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        # As `moments`, each pixel with its example's weight.
        x = self._input(recorded)
        x = x.reshape(*x.shape[:2], -1)  # [batch, channel, pixel]
        of_example = weights[0].reshape(len(x), -1)[:, 0]

        def mean(x: Array) -> Array:
            m = weighted_mean(x.mean(2)[None], of_example[None])  # [1, channel]
            return jnp.repeat(m[0], prod(self.kernel_size)).reshape(self.groups, -1)  # [g, i]

        return mean(x), mean(jnp.square(x))

    def _input(self, recorded: Array) -> Array:
        x = recorded.astype(statistics_dtype(recorded.dtype)).transpose(self.input_layout)  # [batch, channel, *space]
        return x if self.factor == 1.0 else x * jnp.asarray(self.factor, x.dtype)

    def matrix(self, recorded: Array) -> Array:
        x = jnp.moveaxis(self._padded(recorded), 1, -1)  # [batch, *space, channel]
        x = patches(x, self.kernel_size, self.strides, self.kernel_dilation)
        x = x.reshape(-1, prod(self.kernel_size), self.groups, self.channels)  # [n, position, g, channel]
        return x.transpose(2, 0, 3, 1).reshape(self.groups, x.shape[0], -1)  # [g, n, i]

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        features = self.channels * prod(self.kernel_size)
        geometry = (self.kernel_size[0], self.strides[0], self.kernel_dilation[0])
        if self.groups > 1 or not worth_shifting(features, *geometry):
            return gram_of(self.matrix(recorded))
        x = self._padded(recorded)
        gram, total = convolution_gram(x, self.kernel_size, self.strides, self.kernel_dilation)
        return gram[None], total[None]

    def _padded(self, recorded: Array) -> Array:
        x = self._input(recorded)
        spread = [(low, high, d - 1) for (low, high), d in zip(self.padding, self.input_dilation, strict=True)]
        return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), *spread))

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        # Per channel over all input pixels and shared over the kernel's positions: footnote 4 of the paper.
        x = recorded.astype(statistics_dtype(recorded.dtype))
        axes = tuple(axis for axis in range(x.ndim) if axis != self.input_layout[1])

        def mean(x: Array, factor: float) -> Array:
            m = x.mean(axes) if factor == 1.0 else x.mean(axes) * jnp.asarray(factor, x.dtype)
            return jnp.repeat(m, prod(self.kernel_size)).reshape(self.groups, -1)  # [g, i]

        return mean(x, self.factor), mean(x * x, self.factor**2)

    def _convolve(self, x: Array, weight: Array) -> Array:
        groups, _, outputs = weight.shape
        kernel = weight.transpose(0, 2, 1)  # [g, o, i]
        kernel = kernel.reshape(groups * outputs, self.channels, *self.kernel_size)  # [g * o, channel, *position]
        return lax.conv_general_dilated(
            x.astype(kernel.dtype),
            kernel,
            self.strides,
            self.padding,
            self.input_dilation,
            self.kernel_dilation,
            feature_group_count=groups,
            precision=lax.Precision.HIGHEST,
        )  # [batch, g * o, *space]

    def forward(self, recorded: Array, weight: Array) -> Array:
        y = self._convolve(self._input(recorded), weight)
        groups, _, outputs = weight.shape
        y = y.reshape(y.shape[0], groups, outputs, -1)  # [batch, g, o, pixel]
        return y.transpose(1, 0, 3, 2).reshape(groups, -1, outputs)  # [g, n, o]

    def backward(self, recorded: Array, output: Array) -> Array:
        groups, _, outputs = output.shape
        shape = (groups, self.channels * prod(self.kernel_size), outputs)
        weight = jax.ShapeDtypeStruct(shape, output.dtype)
        return jax.linear_transpose(lambda w: self.forward(recorded, w), weight)(output)[0]


def worth_shifting(features: int, kernel: int, stride: int, dilation: int) -> bool:
    """Whether `convolution_gram` takes less than the patches' product does."""
    return features >= _FEWEST and _period(stride, dilation) < kernel


def _period(stride: int, dilation: int) -> int:
    """q: from how many kernel rows on the blocks follow from those before."""
    return stride // gcd(stride, dilation)


def convolution_gram(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Array, Array]:
    """X^T X [i, i] and X^T 1 [i] of the patches X [n, i] of an input.

    Args:
        x: padded input [batch, channel, *space].
        kernel, strides, dilation: the convolution's, for each axis of space.
    """
    rows, columns, channels = kernel[0], prod(kernel[1:]), x.shape[1]
    width, stride, spread = columns * channels, strides[0], dilation[0]
    x = jnp.moveaxis(x, (1, 2), (-1, 0))  # [row, batch, *rest of space, channel]
    height = x.shape[0]
    u = patches(x.reshape(-1, *x.shape[2:]), kernel[1:], strides[1:], dilation[1:])
    u = u.reshape(height, -1, width)  # [row, sample, (column, channel)]
    outputs = (height - spread * (rows - 1) - 1) // stride + 1
    first = _period(stride, spread)
    moved = first * spread // stride  # output rows that enter and leave
    first = rows if moved >= outputs else min(first, rows)
    rest = rows - first
    seen = stride * np.arange(outputs)[:, None] + spread * np.arange(rows)  # [output row, kernel row]: row of u

    def product(left: Array, right: Array) -> Array:
        return contract("ni,nj->ij", left, right)

    lines = [lax.slice_in_dim(u, at[0], at[-1] + 1, stride).reshape(-1, width) for at in seen.T]
    top = jnp.stack([product(lines[a], lines[b]) for a in range(first) for b in range(rows)])
    gram = added = _pad(top.reshape(first, rows, width, width), (0, rest), (0, 0))
    if rest:
        borders = (
            u[seen[:moved, :rest] + start] for start in (stride * outputs, 0)
        )  # [row, kernel row, sample, width]
        entering, leaving = (edge.swapaxes(1, 2).reshape(-1, rest * width) for edge in borders)
        change = product(entering, entering) - product(leaving, leaving)
        change = change.reshape(rest, width, rest, width).swapaxes(1, 2)
        added = added + _pad(change, (first, 0), (first, 0))
    for _ in range(first, rows, first):
        gram = added + _pad(gram, (first, -first), (first, -first))
    above = np.arange(rows)[:, None, None, None] <= np.arange(rows)[:, None, None]
    gram = jnp.where(above, gram, gram.transpose(1, 0, 3, 2))  # [kernel row, kernel row, width, width]
    gram = gram.reshape(rows, rows, columns, channels, columns, channels).transpose(3, 0, 2, 5, 1, 4)
    size = channels * rows * columns
    counted = (np.arange(height)[:, None] == seen.T[:, None]).any(-1)  # whether a kernel row sees row y of u
    total = contract("ay,yw->aw", jnp.asarray(counted, u.dtype), u.sum(1))
    total = total.reshape(rows, columns, channels).transpose(2, 0, 1)
    return gram.reshape(size, size), total.reshape(size)  # i = (channel, row, column)


def _pad(blocks: Array, first: tuple[int, int], second: tuple[int, int]) -> Array:
    """Blocks [a, b, i, j] with zeros before and after, or fewer of them where that is negative."""
    return lax.pad(blocks, jnp.zeros((), blocks.dtype), [(*first, 0), (*second, 0), (0, 0, 0), (0, 0, 0)])


def patches(x: Array, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> Array:
    """The padded input [batch, *space, channel] under the kernel: [batch, *output pixel, *position, channel]."""
    for k, (size, stride, spread) in enumerate(zip(kernel, strides, dilation, strict=True)):
        axis = 1 + 2 * k
        length = (x.shape[axis] - spread * (size - 1) - 1) // stride + 1
        places = stride * np.arange(length)[:, None] + spread * np.arange(size)
        x = x.at[(slice(None),) * axis + (places,)].get(mode="promise_in_bounds")
    pixels = range(1, 2 * len(kernel), 2)
    return x.transpose(0, *pixels, *(axis + 1 for axis in pixels), x.ndim - 1)
