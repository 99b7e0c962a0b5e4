"""The memory of an optimizer's state for models like GPT-2 and GPT-3, whole and per device under FSDP, as Markdown.

Shapes alone: no array is made.

    python benchmarks/state_size.py
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import lnb


class Model(NamedTuple):
    """A decoder with biases and normalisations, whose head is its embedding."""

    layers: int
    width: int
    vocabulary: int = 50_304
    length: int = 1024
    heads: int = 16

    def params(self) -> dict[str, Any]:
        """The parameters' shapes, in float32."""
        d = self.width
        layer = {
            "norm1": (2, d),
            "qkv": (d, 3 * d),
            "qkv_bias": (3 * d,),
            "out": (d, d),
            "out_bias": (d,),
            "norm2": (2, d),
            "up": (d, 4 * d),
            "up_bias": (4 * d,),
            "down": (4 * d, d),
            "down_bias": (d,),
        }
        shapes = {
            "table": (self.vocabulary, d),
            "positions": (self.length, d),
            "layers": [layer] * self.layers,
            "norm": (2, d),
        }
        return jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
        )

    def loss(self, params: dict[str, Any], tokens: jax.Array) -> jax.Array:
        """The next token's cross-entropy."""
        x = params["table"][tokens[:, :-1]] + params["positions"]
        for layer in params["layers"]:
            q, k, v = jnp.split(_norm(x, layer["norm1"]) @ layer["qkv"] + layer["qkv_bias"], 3, axis=2)
            q, k, v = (part.reshape(*part.shape[:2], self.heads, -1) for part in (q, k, v))
            attended = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
            x = x + attended @ layer["out"] + layer["out_bias"]
            h = jax.nn.gelu(_norm(x, layer["norm2"]) @ layer["up"] + layer["up_bias"])
            x = x + h @ layer["down"] + layer["down_bias"]
        logits = _norm(x, params["norm"]) @ params["table"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def _norm(x: jax.Array, scale_and_shift: jax.Array) -> jax.Array:
    centered = x - x.mean(-1, keepdims=True)
    return (
        centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5) * scale_and_shift[0]
        + (scale_and_shift[1])
    )


MODELS = {
    "124 M": Model(12, 768, heads=12),
    "1.3 B": Model(24, 2048, length=2048),
    "6.7 B": Model(32, 4096, length=2048, heads=32),
}
SOLVERS = {
    "`Auto()`": lnb.Auto(),
    "`LowRank()`": lnb.LowRank(),
    "`Diagonal()`": lnb.Diagonal(),
    "`Cholesky()`": lnb.Cholesky(),
    "`CG()`": lnb.CG(),
}


def split(params: Any, devices: int) -> Any:
    """The shapes with their layout under FSDP: along the largest axis that the devices divide."""
    mesh = AbstractMesh((devices,), ("data",))

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        fits = [k for k, size in enumerate(leaf.shape) if size % devices == 0]
        largest = max(fits, key=lambda k: leaf.shape[k], default=None)
        spec = PartitionSpec(*("data" if k == largest else None for k in range(len(leaf.shape))))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(of, params)


def size(optimizer: Any, params: Any, devices: int = 1) -> int:
    """The bytes of an optimizer's state on one device."""
    state = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    shardings = jax.tree.leaves(lnb.state_sharding(optimizer, split(params, devices)))
    parts = [sharding.shard_shape(leaf.shape) for leaf, sharding in zip(state, shardings, strict=True)]
    return sum(prod(part) * leaf.dtype.itemsize for part, leaf in zip(parts, state, strict=True))


def main() -> None:
    """Print the table."""
    print("| model | optimizer | state, GB | of Adam's | on each of 8 | on each of 64 |")
    print("|---|---|---|---|---|---|")
    for name, model in MODELS.items():
        params = model.params()
        tokens = jax.ShapeDtypeStruct((8, model.length + 1), jnp.int32)
        neurons = lnb.find_neurons(model.loss, params, tokens)
        optimizers = {"Adam": optax.adam(1e-3)}
        optimizers |= {solver: lnb.lnb(neurons, 0.02, solver=made) for solver, made in SOLVERS.items()}
        adam = size(optimizers["Adam"], params)
        for label, optimizer in optimizers.items():
            whole, *parts = (size(optimizer, params, devices) for devices in (1, 8, 64))
            cells = [f"{whole / 1e9:.2f}", f"{whole / adam:.2f}", *(f"{part / 1e9:.3f}" for part in parts)]
            print(f"| {name} | {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
