"""The linear functions a network is made of, each as a grouped linear regression.

    Y[g, n, o] = sum_i X[g, n, i] W[g, i, o] + b[g, o]

Axis letters, here and everywhere: g groups, n samples, i inputs (features), o outputs. A feature map knows how to
read X from what the network's forward pass recorded, and multiplies by it and by its transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from lnb._convolution_gram import convolution_gram, patches, worth_shifting

Arrays = Sequence[Array]
"""What a forward pass recorded: the arrays of `Features`."""


def statistics_dtype(*dtypes: Any) -> Any:
    """The type of statistics and solves: float32, or float64 where one of the types is."""
    return jnp.float64 if jnp.dtype(jnp.float64) in dtypes else jnp.float32


def absent(dtype: Any) -> Any:
    """What is recorded in a region that did not run: zero, or for indices one that reads no row."""
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return jnp.iinfo(dtype).max
    return jnp.iinfo(dtype).min if jnp.issubdtype(dtype, jnp.integer) else jnp.zeros((), dtype)


def contract(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` in the type of statistics, at full precision: a metric's products are what is inverted."""
    dtype = statistics_dtype(*(operand.dtype for operand in operands))
    return jnp.einsum(subscripts, *(x.astype(dtype) for x in operands), precision=lax.Precision.HIGHEST)


def thin_axis(array: Array, axes: Sequence[int], every: int) -> Array:
    """Every k-th index along the first of these axes that is long enough, or as few as it has along the longest."""
    if not axes:
        return array
    axis = next((a for a in axes if array.shape[a] >= every), max(axes, key=lambda a: array.shape[a]))
    return lax.slice_in_dim(array, 0, array.shape[axis], min(every, array.shape[axis]), axis)


def align(weights: Array, samples: Sequence[int]) -> Array:
    """Weights of a batch [b1, b2, ..] for samples of these axes: repeated over more axes, averaged over fewer.

    Raises:
        ValueError: the leading axes are not the batch's, one by one or as their product.
    """
    if samples and weights.size == samples[0] and weights.shape[0] != samples[0]:
        weights = weights.reshape(-1)
    shared = min(weights.ndim, len(samples))
    if weights.shape[:shared] != tuple(samples[:shared]) or not shared:
        raise ValueError(f"has samples of shape {tuple(samples)}, and the weights have shape {weights.shape}")
    return weights.mean(tuple(range(shared, weights.ndim)))


def rows_of_weights(weights: Array, samples: Sequence[int]) -> Array:
    """The weights of n samples whose axes these are, [n]."""
    aligned = align(weights, samples)
    full = aligned.reshape(aligned.shape + (1,) * (len(samples) - aligned.ndim))
    return jnp.broadcast_to(full, tuple(samples)).reshape(-1)


def gram_of(x: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """X^T W X [g, i, i] and X^T w [g, i] of X [g, n, i] and weights [g or 1, n, 1], by default 1."""
    weighted = x if weights is None else x * weights.astype(x.dtype)
    return contract("gni,gnj->gij", weighted, x), weighted.sum(1)


class FeatureMap(Protocol):
    """X of one weight, read from an array that the forward pass recorded."""

    @property
    def sample_rank(self) -> int:
        """How many axes the samples are spread over."""
        ...

    def thin(self, recorded: Array, every: int) -> Array:
        """The recorded array of about every k-th sample."""
        ...

    def weights(self, recorded: Array, weights: Array) -> Array:
        """A batch's weights for each sample, [n]."""
        ...

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        """`moments` with weights [g or 1, n], which need not add up to 1."""
        ...

    def matrix(self, recorded: Array) -> Array:
        """X [g, n, i]."""
        ...

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        """X^T X [g, i, i] and X^T 1 [g, i]."""
        ...

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        """Mean over the samples of the features and of their squares, each [g, i]."""
        ...

    def forward(self, recorded: Array, weight: Array) -> Array:
        """X W [g, n, o] for W [g, i, o]."""
        ...

    def backward(self, recorded: Array, output: Array) -> Array:
        """X^T Y [g, i, o] for Y [g, n, o]."""
        ...


@dataclass(frozen=True)
class DenseFeatures:
    """Features of a matrix product: an array whose axes are groups, samples or contracted.

    A normalisation's scale is one too, with i = 1: no axis is contracted.
    """

    group_axes: tuple[int, ...]
    sample_axes: tuple[int, ...]
    input_axes: tuple[int, ...]
    factor: float = 1.0

    @property
    def sample_rank(self) -> int:
        return len(self.sample_axes)

    def thin(self, recorded: Array, every: int) -> Array:
        return thin_axis(recorded, self.sample_axes, every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        return rows_of_weights(weights, [recorded.shape[a] for a in self.sample_axes])

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        x = self.matrix(recorded)
        return _weighted_mean(x, weights), _weighted_mean(jnp.square(x), weights)

    def matrix(self, recorded: Array) -> Array:
        x = recorded.astype(statistics_dtype(recorded.dtype))
        sizes = [prod(x.shape[a] for a in axes) for axes in (self.group_axes, self.sample_axes, self.input_axes)]
        x = x.transpose(self.group_axes + self.sample_axes + self.input_axes).reshape(sizes)  # [g, n, i]
        return x if self.factor == 1.0 else x * jnp.asarray(self.factor, x.dtype)

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        if self.input_axes:
            return gram_of(self.matrix(recorded))
        samples = prod(recorded.shape[a] for a in self.sample_axes)
        mean, square = self.moments(recorded)
        return samples * square[:, :, None], samples * mean

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        left = [a for a in range(recorded.ndim) if a not in self.sample_axes]
        order = [left.index(a) for a in self.group_axes + self.input_axes]
        groups = prod(recorded.shape[a] for a in self.group_axes)
        x = recorded.astype(statistics_dtype(recorded.dtype))

        def mean(x: Array, factor: float) -> Array:
            m = x.mean(self.sample_axes).transpose(order).reshape(groups, -1)  # [g, i]
            return m if factor == 1.0 else m * jnp.asarray(factor, m.dtype)

        return mean(x, self.factor), mean(jnp.square(x), self.factor**2)

    def forward(self, recorded: Array, weight: Array) -> Array:
        return contract("gni,gio->gno", self.matrix(recorded), weight)

    def backward(self, recorded: Array, output: Array) -> Array:
        return contract("gni,gno->gio", self.matrix(recorded), output)


@dataclass(frozen=True)
class ConvolutionFeatures:
    """Features of a convolution: for each output pixel, the input's channels under the kernel (i = channel, position).

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

    def thin(self, recorded: Array, every: int) -> Array:
        return thin_axis(recorded, self.input_layout[:1], every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        batch = recorded.shape[self.input_layout[0]]
        pixels = jax.eval_shape(self.matrix, recorded).shape[1] // batch
        return jnp.repeat(rows_of_weights(weights, [batch]), pixels)

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        # As `moments`, each pixel with its example's weight.
        x = self._input(recorded)
        x = x.reshape(*x.shape[:2], -1)  # [batch, channel, pixel]
        of_example = weights[0].reshape(len(x), -1)[:, 0]

        def mean(x: Array) -> Array:
            m = _weighted_mean(x.mean(2)[None], of_example[None])  # [1, channel]
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
        gram, total = convolution_gram(x, self.kernel_size, self.strides, self.kernel_dilation, contract)
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


@dataclass(frozen=True)
class EmbeddingFeatures:
    """One-hot features of a table lookup: g = 1, n = tokens, i = rows of the table. Their Gram matrix is diagonal.

    `component` is the index's place on the recorded array's last axis, if that axis holds several indices.
    An index outside the table reads no row (`clip=False`) or the nearest (`clip=True`), as in the lookup itself.
    """

    rows: int
    clip: bool
    component: int | None = None
    factor: float = 1.0

    @property
    def sample_rank(self) -> int:
        return 1  # of no use: no two rows meet, whatever the number of samples

    def _sample_axes(self, recorded: Array) -> range:
        return range(recorded.ndim if self.component is None else recorded.ndim - 1)

    def thin(self, recorded: Array, every: int) -> Array:
        return thin_axis(recorded, self._sample_axes(recorded), every)

    def weights(self, recorded: Array, weights: Array) -> Array:
        return rows_of_weights(weights, [recorded.shape[a] for a in self._sample_axes(recorded)])

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        frequency = self.backward(recorded, weights[:, :, None])[:, :, 0] / self.factor / _total(weights)  # [1, i]
        return frequency * self.factor, frequency * self.factor**2

    def _indices(self, recorded: Array) -> tuple[Array, Array]:
        indices = (recorded if self.component is None else recorded[..., self.component]).reshape(-1)
        ran = indices != absent(indices.dtype)
        if self.clip:
            indices = jnp.clip(indices, 0, self.rows - 1)
        inside = ran & (indices >= 0) & (indices < self.rows)
        return jnp.where(inside, indices, 0), inside  # [n]

    def matrix(self, recorded: Array) -> Array:
        indices, inside = self._indices(recorded)
        return jax.nn.one_hot(jnp.where(inside, indices, -1), self.rows)[None] * self.factor  # [1, n, i]

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        return gram_of(self.matrix(recorded))

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        indices, inside = self._indices(recorded)
        counts = jnp.zeros(self.rows).at[indices].add(inside.astype(jnp.zeros(()).dtype))
        frequency = (counts / indices.size)[None]  # [1, i]
        return frequency * self.factor, frequency * self.factor**2

    def forward(self, recorded: Array, weight: Array) -> Array:
        indices, inside = self._indices(recorded)
        weight = weight[0] * self.factor
        return jnp.where(inside[:, None], weight[indices], jnp.zeros((), weight.dtype))[None]  # [1, n, o]

    def backward(self, recorded: Array, output: Array) -> Array:
        indices, inside = self._indices(recorded)
        rows = jnp.where(inside[:, None], output[0] * self.factor, jnp.zeros((), output.dtype))
        return jnp.zeros((self.rows, output.shape[2]), output.dtype).at[indices].add(rows)[None]  # [1, i, o]


@dataclass(frozen=True)
class LoopFeatures:
    """Features recorded at every step of a loop, with the steps as the recorded array's first axis.

    Where each step has a weight of its own (`stacked`, layers run by a scan), the steps are groups; where all steps
    use one weight (time), they are samples.
    """

    inner: Any
    stacked: bool

    @property
    def sample_rank(self) -> int:
        """How many axes the samples are spread over."""
        return self.inner.sample_rank + (not self.stacked)

    def weights(self, recorded: Array, weights: Array) -> Array:
        """A batch's weights for each sample, [n]; of weights [batch, step] each step has its own."""
        steps, own = recorded.shape[0], jax.eval_shape(lambda r: r[0], recorded)
        each = weights.ndim == 2 and weights.shape[1] == steps and self.inner.sample_rank == 1 and not self.stacked
        if each:
            return jnp.concatenate([self.inner.weights(own, weights[:, k]) for k in range(steps)])
        inside = self.inner.weights(own, weights)
        return inside if self.stacked else jnp.tile(inside, steps)

    def weighted_moments(self, recorded: Array, weights: Array) -> tuple[Array, Array]:
        """`moments` with weights [g or 1, n]."""
        steps = recorded.shape[0]
        if self.stacked:
            groups = len(weights)
            split = weights.reshape(steps, -1, weights.shape[1]) if groups > 1 else weights[None].repeat(steps, 0)
            mean, square = jax.vmap(self.inner.weighted_moments)(recorded, split)
            return mean.reshape(-1, mean.shape[2]), square.reshape(-1, mean.shape[2])
        split = weights.reshape(len(weights), steps, -1).swapaxes(0, 1)  # [step, g, n]
        mean, square = jax.vmap(self.inner.weighted_moments)(recorded, split)  # [step, g, i]
        share = (split.sum(2) / _total(weights)[None, :, 0])[:, :, None].astype(mean.dtype)  # [step, g, 1]
        return (mean * share).sum(0), (square * share).sum(0)

    def thin(self, recorded: Array, every: int) -> Array:
        """The recorded array of about every k-th sample of each step."""
        return jax.vmap(lambda step: self.inner.thin(step, every))(recorded)

    def matrix(self, recorded: Array) -> Array:
        """X [g, n, i]."""
        return self._merge(jax.vmap(self.inner.matrix)(recorded))

    def gram(self, recorded: Array) -> tuple[Array, Array]:
        """X^T X [g, i, i] and X^T 1 [g, i]."""
        if not self.stacked:
            return gram_of(self.matrix(recorded))
        gram, total = jax.vmap(self.inner.gram)(recorded)  # [step, g, i, i] and [step, g, i]
        return gram.reshape(-1, *gram.shape[2:]), total.reshape(-1, total.shape[2])

    def moments(self, recorded: Array) -> tuple[Array, Array]:
        """Mean over the samples of the features and of their squares, each [g, i]."""
        mean, square = jax.vmap(self.inner.moments)(recorded)  # [step, g, i]
        if self.stacked:
            return mean.reshape(-1, mean.shape[2]), square.reshape(-1, mean.shape[2])
        return mean.mean(0), square.mean(0)

    def forward(self, recorded: Array, weight: Array) -> Array:
        """X W [g, n, o] for W [g, i, o]."""
        if self.stacked:
            return self._merge(jax.vmap(self.inner.forward)(recorded, self._split(recorded, weight)))
        return self._merge(jax.vmap(self.inner.forward, in_axes=(0, None))(recorded, weight))

    def backward(self, recorded: Array, output: Array) -> Array:
        """X^T Y [g, i, o] for Y [g, n, o]."""
        result = jax.vmap(self.inner.backward)(recorded, self._split(recorded, output))  # [step, g, i, o]
        return result.reshape(-1, *result.shape[2:]) if self.stacked else result.sum(0)

    def _merge(self, value: Array) -> Array:
        """[step, g, n, k] as [g, n, k]."""
        steps, groups, samples, last = value.shape
        if self.stacked:
            return value.reshape(steps * groups, samples, last)
        return value.transpose(1, 0, 2, 3).reshape(groups, steps * samples, last)

    def _split(self, recorded: Array, value: Array) -> Array:
        """[g, n, k] as [step, g, n, k]; for a stacked weight, i stands in n's place."""
        steps = recorded.shape[0]
        if self.stacked:
            return value.reshape(steps, -1, *value.shape[1:])
        return value.reshape(value.shape[0], steps, -1, value.shape[2]).transpose(1, 0, 2, 3)


def _total(weights: Array) -> Array:
    """The sum of weights [g, n], [g, 1]; 1 where all are zero."""
    total = weights.sum(1, keepdims=True)
    return jnp.where(total > 0, total, 1)


def _weighted_mean(x: Array, weights: Array) -> Array:
    """The mean of X [g, n, i] with weights [g or 1, n], [g, i]."""
    weights = jnp.broadcast_to(weights, x.shape[:2]).astype(x.dtype)
    return contract("gn,gni->gi", weights, x) / _total(weights)


@dataclass(frozen=True)
class RunWeight:
    """Whether a region that may be passed over ran, 1 or 0, for each of its samples: X [g, n, 1] of the bias."""

    groups: int
    samples: int

    def matrix(self, recorded: Array) -> Array:
        """The weight of each sample, [g, n, 1]."""
        return jnp.broadcast_to(recorded, (self.groups, self.samples, 1))


@dataclass(frozen=True)
class SampleWeight:
    """A weight for each sample, as `Features.weighted` recorded it."""

    def matrix(self, recorded: Array) -> Array:
        """The weight of each sample, [g or 1, n, 1]."""
        return recorded
