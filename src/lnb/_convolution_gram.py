"""The Gram matrix of a convolution without the matrix of its patches.

With the patches' columns gathered, u(y) [batch x pixel, (column, channel)] for each row y of the padded input, the
block of the Gram matrix for kernel rows a and b is a sum over output rows t,

    G[a, b] = sum_t u(s t + d a)^T u(s t + d b),

s the stride and d the kernel's dilation. It depends on b - a but for the borders: with q = s / gcd(s, d),

    G[a + q, b + q] = G[a, b] + the rows that enter below - those that leave above,

so that k products of k^3 c^2 operations in all stand for one of k^4 c^2, and the patches take 1/k of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd, prod

import jax.numpy as jnp
from jax import Array, lax


def shifts(kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """How many products the blocks of a kernel's rows take by shifting, and without."""
    period = stride // gcd(stride, dilation)
    return sum(kernel - a for a in range(min(period, kernel))), kernel * (kernel + 1) // 2


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
    channels, rows = x.shape[1], kernel[0]
    columns = prod(kernel[1:])
    x = jnp.moveaxis(x, (1, 2), (-1, 0))  # [row, batch, *rest of space, channel]
    views = patch_views(x, kernel[1:], strides[1:], dilation[1:], first=2)
    u = jnp.concatenate(views, axis=-1).reshape(x.shape[0], -1, columns * channels)  # [row, sample, (column, channel)]
    stride, spread = strides[0], dilation[0]
    outputs = (x.shape[0] - spread * (rows - 1) - 1) // stride + 1

    def lines(start: int, count: int) -> Array:
        """u at the rows of `count` output rows from a row on."""
        return lax.slice_in_dim(u, start, start + stride * (count - 1) + 1, stride)

    def product(first: Array, second: Array) -> Array:
        return contract("yni,ynj->ij", first, second)

    period = stride // gcd(stride, spread)
    moved = period * spread // stride  # output rows that enter and leave
    blocks: dict[tuple[int, int], Array] = {}
    for a in range(rows):
        for b in range(a, rows):
            if a < period or moved >= outputs:
                blocks[a, b] = product(lines(spread * a, outputs), lines(spread * b, outputs))
                continue
            before_a, before_b = spread * (a - period), spread * (b - period)
            leaving = product(lines(before_a, moved), lines(before_b, moved))
            below = stride * outputs
            entering = product(lines(before_a + below, moved), lines(before_b + below, moved))
            blocks[a, b] = blocks[a - period, b - period] + entering - leaving
    every = [[blocks[a, b] if a <= b else blocks[b, a].T for b in range(rows)] for a in range(rows)]
    gram = jnp.stack([jnp.stack(line) for line in every])  # [a, b, (column, channel), (column, channel)]
    gram = gram.reshape(rows, rows, columns, channels, columns, channels)
    size = channels * rows * columns
    gram = gram.transpose(3, 0, 2, 5, 1, 4).reshape(size, size)  # [(channel, row, column), (channel, row, column)]
    each = u.sum(1)  # [row, (column, channel)]
    sums = [
        lax.slice_in_dim(each, spread * a, spread * a + stride * (outputs - 1) + 1, stride).sum(0) for a in range(rows)
    ]
    return gram, jnp.stack(sums).reshape(rows, columns, channels).transpose(2, 0, 1).reshape(size)


def patch_views(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int], first: int
) -> list[Array]:
    """For each position of the kernel, row by row, the padded input under it at every output pixel.

    The kernel moves over the axes of x from `first` on.
    """
    views = [x]
    for axis, (size, stride, spread) in enumerate(zip(kernel, strides, dilation, strict=True), start=first):
        length = (x.shape[axis] - spread * (size - 1) - 1) // stride + 1
        views = [
            lax.slice_in_dim(view, spread * position, spread * position + stride * (length - 1) + 1, stride, axis)
            for view in views
            for position in range(size)
        ]
    return views
