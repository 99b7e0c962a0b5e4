"""Loss of a small vision transformer on CIFAR-10 after some steps: `python benchmarks/transformer.py --optimizer auto`.

Dimension 128, 4 blocks, 65 tokens, normalisation without scale and shift, constant learning rates. The batches and the
initial weights are the same for every optimizer. CIFAR-10 is read from `$LNB_DATA_DIR/cifar10`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow.parquet
import tyro
from jax import Array
from optax import contrib
from PIL import Image

import lnb

WIDTH, DEPTH, HEADS, PATCH = 128, 4, 4, 4


@dataclass(frozen=True)
class Settings:
    """One run."""

    optimizer: Literal["adamw", "muon", "auto", "low-rank", "cholesky", "diagonal", "cg"] = "auto"
    """Which one."""
    learning_rate: float = 0.01
    """Constant."""
    adam_learning_rate: float = 3e-3
    """Of what Muon leaves to Adam."""
    ridge: float = 0.1
    """A multiple of the features' mean variance; `auto` has its own."""
    every: int = 10
    """Steps between Cholesky's renewals."""
    step: Literal["spectral", "norm"] = "spectral"
    """LNB's kind of step; the second, the paper's, without Nesterov's look ahead."""
    steps: int = 300
    """Of training."""
    batch: int = 128
    """Images a step."""


def load(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images, normalised, [n, 32, 32, 3], and their labels."""
    (path,) = (Path(os.environ["LNB_DATA_DIR"]) / "cifar10").glob(f"{split}-*.parquet")
    table = pyarrow.parquet.read_table(path).slice(0, count)
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()])
    images = (images / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
    return images.astype(np.float32), np.asarray(table["label"], np.int32)


def init(key: Array) -> Any:
    """Weights within 1 / sqrt(inputs), zero biases, normal class token and positions."""
    keys: Iterator[Array] = iter(jax.random.split(key, 100))

    def weight(i: int, o: int) -> Array:
        return jax.random.uniform(next(keys), (i, o), minval=-(i**-0.5), maxval=i**-0.5)

    def dense(i: int, o: int) -> dict[str, Array]:
        return {"weight": weight(i, o), "bias": jnp.zeros(o)}

    return {
        "patch": dense(PATCH * PATCH * 3, WIDTH),
        "class": jax.random.normal(next(keys), (1, WIDTH)),
        "position": jax.random.normal(next(keys), ((32 // PATCH) ** 2 + 1, WIDTH)),
        "head": dense(WIDTH, 10),
        "blocks": [
            {
                "qkv": [weight(WIDTH, WIDTH) for _ in range(3)],
                "out": weight(WIDTH, WIDTH),
                "up": dense(WIDTH, 2 * WIDTH),
                "down": dense(2 * WIDTH, WIDTH),
            }
            for _ in range(DEPTH)
        ],
    }


def normalise(x: Array) -> Array:
    """Layer normalisation without scale and shift."""
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def apply_dense(layer: dict[str, Array], x: Array) -> Array:
    """x W + b."""
    return x @ layer["weight"] + layer["bias"]


def loss_fn(params: Any, images: Array, labels: Array) -> Array:
    """Mean cross-entropy."""
    n, side = len(images), 32 // PATCH
    x = images.reshape(n, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, side * side, -1)
    token = jnp.broadcast_to(params["class"], (n, 1, WIDTH))
    x = jnp.concatenate([token, apply_dense(params["patch"], x)], 1) + params["position"]
    for block in params["blocks"]:
        h = normalise(x)
        q, k, v = ((h @ w).reshape(n, -1, HEADS, WIDTH // HEADS) for w in block["qkv"])
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / (WIDTH // HEADS) ** 0.5
        x = x + jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v).reshape(n, -1, WIDTH) @ block["out"]
        x = x + apply_dense(block["down"], jax.nn.gelu(apply_dense(block["up"], normalise(x))))
    logits = apply_dense(params["head"], normalise(x[:, 0]))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main() -> None:
    """Train and print both losses."""
    settings = tyro.cli(Settings)
    images, labels = load("train", 40_000)
    test = load("test", 2_000)
    params, rate, ridge = init(jax.random.key(0)), settings.learning_rate, settings.ridge
    neurons = lnb.find_neurons(loss_fn, params, images[: settings.batch], labels[: settings.batch])
    solvers = {
        "auto": lnb.Auto(),
        "low-rank": lnb.LowRank(ridge=ridge, ridge_unit="mean variance", sample_fraction=0.25),
        "cholesky": lnb.Cholesky(
            update_period=settings.every, ridge=ridge, ridge_unit="mean variance", sample_fraction=0.25
        ),
        "diagonal": lnb.Diagonal(ridge=ridge, ridge_unit="mean variance"),
        "cg": lnb.CG(ridge=ridge, ridge_unit="mean variance"),
    }
    if settings.optimizer in solvers:
        kind = {"step": settings.step, "nesterov": settings.step == "spectral"}
        optimizer = lnb.lnb(neurons, rate, solver=solvers[settings.optimizer], **kind)
    elif settings.optimizer == "muon":
        optimizer = optax.with_extra_args_support(contrib.muon(rate, adam_learning_rate=settings.adam_learning_rate))
    else:
        optimizer = optax.with_extra_args_support(optax.adamw(rate))

    @jax.jit
    def step(params: Any, state: Any, x: Array, y: Array) -> tuple[Any, Any, Array]:
        value, grads, features = neurons.value_and_grad(params, x, y)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, value

    random, state, losses = np.random.default_rng(0), optimizer.init(params), []
    for _ in range(settings.steps):
        chosen = random.integers(0, len(images), settings.batch)
        params, state, loss = step(params, state, images[chosen], labels[chosen])
        losses.append(float(loss))
    evaluate = jax.jit(loss_fn)
    final = np.mean([evaluate(params, *(a[k : k + 500] for a in test)) for k in range(0, len(test[0]), 500)])
    print(f"{settings}\ntraining loss {np.mean(losses[-25:]):.3f}, test loss {final:.3f}")


if __name__ == "__main__":
    main()
