"""Which iterations of a loop of unknown length are kept, in `SLOTS` slots, and how many iterations each stands for.

Every iteration is kept while there is room, then every second, every fourth, and so on: iteration k is kept if it is a
multiple of the stride, the least power of two with k < SLOTS * stride. It takes the slot 1 + (k - 1) mod (SLOTS - 1),
and iteration 0 has slot 0. No two kept iterations have one slot, since a power of two and SLOTS - 1 have no common
factor: an iteration takes the slot of one that the longer stride has dropped.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

SLOTS = 8
"""A power of two."""


def keep(slots: Array, recorded: Array, iteration: Array) -> Array:
    """The slots [slot, ...] after an iteration that recorded this array."""
    slot = _slot(iteration)
    is_kept = iteration % _stride(iteration) == 0
    before = lax.dynamic_index_in_dim(slots, slot, keepdims=False)
    return lax.dynamic_update_index_in_dim(slots, jnp.where(is_kept, recorded, before), slot, 0)


def slot_weights(count: Array) -> Array:
    """How many of the `count` iterations that ran each slot stands for, [slot]; 0 for one that holds none."""
    stride = _stride(jnp.maximum(count - 1, 0))
    kept = (count + stride - 1) // stride
    places = jnp.arange(SLOTS, dtype=jnp.int32)
    float_type = jnp.zeros(()).dtype
    each = count.astype(float_type) / jnp.maximum(kept, 1).astype(float_type)
    weights = jnp.where(places < kept, each, jnp.zeros_like(each))
    return jnp.zeros(SLOTS, float_type).at[_slot(places * stride)].set(weights)


def _stride(iteration: Array) -> Array:
    bits = 32 - lax.clz(iteration)
    return jnp.left_shift(jnp.ones_like(iteration), jnp.maximum(bits - (SLOTS.bit_length() - 1), 0))


def _slot(iteration: Array) -> Array:
    return jnp.where(iteration > 0, (iteration - 1) % (SLOTS - 1) + 1, 0)
