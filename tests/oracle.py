"""The paper written the slow, obvious way, in NumPy and with dense Jacobians: what the library is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Layer = tuple[np.ndarray, np.ndarray | None]


def dense_metric(layer: Callable[[Any], Any], params: Any, samples: int) -> np.ndarray:
    """M = J^T J / n of eq. (11), J the Jacobian of a layer's output with respect to its parameters, raveled.

    The real and the imaginary part of a complex output are outputs of their own: M = Re(J^H J) / n.
    """

    def numbers(params: Any) -> jax.Array:
        output = layer(params)
        return jnp.stack([output.real, output.imag]) if jnp.iscomplexobj(output) else output

    jacobian = jax.jit(jax.jacobian(numbers))(params)
    size = jax.eval_shape(numbers, params).size
    columns = [np.asarray(leaf).reshape(size, -1) for leaf in jax.tree.leaves(jacobian)]
    matrix = np.concatenate(columns, axis=1)
    return matrix.T @ matrix / samples


def captured_metric(calls: list[Any], params: dict[str, Any], samples: int) -> np.ndarray:
    """M = sum J^T J / n over a layer's captured calls, each a function of its own leaves with its inputs held.

    A call is the layer's if one of its leaves is one of the parameters, or a row of one that is stacked.
    """
    starts, size = {}, 0
    for key in sorted(params):
        starts[key], size = size, size + params[key].size
    alike: dict[Any, list[Any]] = {}
    for call in calls:
        places = tuple(_place(leaf, params, starts) for leaf in call.leaves)
        if any(place is not None for place in places):
            shapes = tuple((np.shape(x), np.asarray(x).dtype) for x in call.inputs)
            alike.setdefault((places, shapes), []).append(call)
    assert alike, f"no call of the layer of {sorted(params)} was captured"
    metric = np.zeros((size, size))
    for (places, _), same in alike.items():
        inputs = tuple(np.stack(each) for each in zip(*(call.inputs for call in same), strict=True))
        function, leaves = same[0].function, same[0].leaves
        jacobian = jax.jacobian(lambda leaves, inputs, f=function: f(leaves, *inputs))
        columns = jax.jit(jax.vmap(jacobian, (None, 0)))(leaves, inputs)
        rows = columns[0].size // leaves[0].size
        matrix = np.zeros((rows, size))
        for place, leaf, part in zip(places, leaves, columns, strict=True):
            if place is not None:
                matrix[:, place : place + leaf.size] = np.asarray(part).reshape(rows, -1)
        metric += matrix.T @ matrix
    return metric / samples


def _place(leaf: np.ndarray, params: dict[str, Any], starts: dict[str, int]) -> int | None:
    """Where a call's leaf starts among the raveled parameters."""
    for key, value in params.items():
        if leaf.shape == value.shape and np.array_equal(leaf, value):
            return starts[key]
        if leaf.shape == value.shape[1:]:
            for row, each in enumerate(np.asarray(value)):
                if np.array_equal(leaf, each):
                    return starts[key] + row * leaf.size
    return None


def backpropagate(layers: list[Layer], x: np.ndarray, labels: np.ndarray) -> tuple[list[np.ndarray], list[Layer]]:
    """Each layer's features, and the gradient of the mean softmax cross-entropy of a tanh network."""
    features, h = [], x
    for k, (weight, bias) in enumerate(layers):
        features.append(h)
        h = h @ weight + (0 if bias is None else bias)
        h = np.tanh(h) if k < len(layers) - 1 else h
    probabilities = np.exp(h - h.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    error = (probabilities - np.eye(h.shape[1])[labels]) / len(x)
    gradients: list[Layer] = []
    for k in reversed(range(len(layers))):
        weight, bias = layers[k]
        gradients.insert(0, (features[k].T @ error, None if bias is None else error.sum(0)))
        error = (error @ weight.T) * (1 - features[k] ** 2)
    return features, gradients


@dataclass
class Algorithm2:
    """Algorithm 2 for a tanh network, with the conventions of the published code."""

    learning_rate: float
    steps: int = 2
    ridge: float = 0.1
    shrinkage: float = 0.1
    mean_decay: float = 0.9
    square_decay: float = 0.999
    gradient_decay: float = 0.9
    weight_decay: float = 1e-4
    min_norm: float = 1e-2
    count: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def average(self, name: str, value: np.ndarray, decay: float) -> np.ndarray:
        """Moving average, corrected for its start at zero."""
        self.memory[name] = decay * self.memory.get(name, np.zeros_like(value)) + (1 - decay) * value
        return self.memory[name] / (1 - decay**self.count)

    def step(self, layers: list[Layer], x: np.ndarray, labels: np.ndarray) -> list[Layer]:
        """The parameters after one more batch."""
        self.count += 1
        features, gradients = backpropagate(layers, x, labels)
        directions, z = [], 0.0
        for k, (h, (g_weight, g_bias)) in enumerate(zip(features, gradients, strict=True)):
            has_bias = g_bias is not None
            stacked = np.concatenate([g_weight, g_bias[None]]) if has_bias else g_weight
            gradient = self.average(f"gradient {k}", stacked, self.gradient_decay)
            mean = self.average(f"mean {k}", h.mean(0), self.mean_decay)
            square = self.average(f"square {k}", (h * h).mean(0), self.square_decay)
            direction = self.solve(k, h, gradient, mean, square, has_bias)
            z += float((direction * gradient).sum())
            directions.append(direction)
        length = max(self.min_norm, np.sqrt(max(z, 0.0)))
        updated: list[Layer] = []
        for (weight, bias), direction in zip(layers, directions, strict=True):
            moved = [weight, direction[: len(weight)]], [bias, direction[len(weight) :]]
            new = [
                None if p is None else p - self.learning_rate * (d.reshape(p.shape) / length + self.weight_decay * p)
                for p, d in moved
            ]
            updated.append((new[0], new[1]))
        return updated

    def solve(
        self, k: int, h: np.ndarray, gradient: np.ndarray, mean: np.ndarray, square: np.ndarray, has_bias: bool
    ) -> np.ndarray:
        """Preconditioned conjugate gradients from the previous direction."""
        variance = np.maximum(square - mean**2, 0)
        variance = (1 - self.shrinkage) * variance + self.shrinkage * variance.mean()
        if has_bias:
            whitening = np.diag(np.append(variance**-0.5, 1.0))
            whitening[-1, :-1] = -mean * variance**-0.5
            preconditioner = whitening @ whitening.T
            extended = np.concatenate([h, np.ones((len(h), 1))], axis=1)
            ridge = np.diag(np.append(np.full(len(mean), self.ridge), 0.0))
        else:
            preconditioner = np.diag(1 / (variance + mean**2))
            extended, ridge = h, self.ridge * np.eye(len(mean))
        matrix = extended.T @ extended / len(h) + ridge
        x = self.memory.get(f"direction {k}", np.zeros_like(gradient))
        residual = gradient - matrix @ x
        z = preconditioner @ residual
        p = z
        for _ in range(self.steps):
            image = matrix @ p
            slope = (residual * z).sum()
            length = slope / (p * image).sum()
            x = x + length * p
            residual = residual - length * image
            z = preconditioner @ residual
            p = z + (residual * z).sum() / slope * p
        self.memory[f"direction {k}"] = x
        return x
