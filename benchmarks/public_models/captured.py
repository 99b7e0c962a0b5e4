"""The inputs of a network's dense layers, captured from the library that defines them and not from LNB's search.

Each library's dense layer calls the host back with its input and its weight. The weight's value tells which parameter
it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from unittest import mock

import jax
import numpy as np


@dataclass
class _Layer:
    """What a dense layer has read: the weight [i, o], sum x x^T [i, i], and the number of samples."""

    weight: np.ndarray
    second_moments: np.ndarray
    samples: int = 0


@dataclass
class _Captures:
    layers: dict[bytes, _Layer] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)  # JAX calls back from several threads

    def add(self, x: np.ndarray, weight: np.ndarray) -> None:
        """Add samples x [..., i] of a layer with this weight [i, o]."""
        x, weight = np.asarray(x, np.float64), np.asarray(weight)
        rows = x.reshape(-1, x.shape[-1])
        with self.lock:
            layer = self.layers.setdefault(weight.tobytes(), _Layer(weight, np.zeros((x.shape[-1],) * 2)))
            layer.second_moments += rows.T @ rows
            layer.samples += len(rows)


def _dense_layers() -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """The dense layers of the libraries that are loaded, and how each reads its weight [i, o]."""
    if "flax" in sys.modules:
        from flax import linen, nnx

        yield nnx.Linear, lambda layer: layer.kernel[...]
        yield linen.Dense, lambda layer: layer.get_variable("params", "kernel")
    if "equinox" in sys.modules:
        import equinox as eqx

        yield eqx.nn.Linear, lambda layer: layer.weight.T
    if "haiku" in sys.modules:
        import haiku as hk

        yield hk.Linear, lambda layer: layer.params_dict()[f"{layer.module_name}/w"]
    if "keras" in sys.modules:
        import keras

        yield keras.layers.Dense, lambda layer: getattr(layer.kernel, "value", layer.kernel)


def dense_inputs(loss_fn: Callable[..., Any], params: Any, batch: Sequence[Any]) -> list[_Layer]:
    """What each dense layer of a loss reads in one evaluation."""
    captures = _Captures()
    with _patched(captures):
        jax.block_until_ready(jax.jit(lambda params: loss_fn(params, *batch))(params))
        jax.effects_barrier()
    return list(captures.layers.values())


@contextmanager
def _patched(captures: _Captures) -> Iterator[None]:
    patches = [
        mock.patch.object(layer, "__call__", _wrap(layer, weight, captures)) for layer, weight in _dense_layers()
    ]
    for patch in patches:
        patch.start()
    jax.clear_caches()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
        jax.clear_caches()


def _wrap(layer: Any, weight_of: Callable[[Any], Any], captures: _Captures) -> Callable[..., Any]:
    call = layer.__call__

    def captured(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        result = call(self, x, *args, **kwargs)
        jax.debug.callback(captures.add, x, weight_of(self))
        return result

    return captured
