"""The Gram matrix of a convolution without the matrix of its patches.

With u(y) what a row of the kernel sees of row y of the padded input, [sample, (column, channel)], the block of the Gram
matrix for kernel rows a and b is a sum over output rows t,

    G[a, b] = sum_t u(s t + d a)^T u(s t + d b),

s the stride and d the kernel's dilation. It depends on b - a but for the borders: with q = s / gcd(s, d),

    G[a + q, b + q] = G[a, b] + the rows that enter below - those that leave above,

so that the products of the first q kernel rows stand for those of all k, and u takes 1/k of the patches' memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd, prod

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_FEWEST = 256  # features from which on the products saved outweigh the copies they need


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
    contract: Callable[..., Array],
) -> tuple[Array, Array]:
    """X^T X [i, i] and X^T 1 [i] of the patches X [n, i] of an input.

    Args:
        x: padded input [batch, channel, *space].
        kernel, strides, dilation: the convolution's, for each axis of space.
        contract: an einsum.
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
