"""Random networks and data, each trained for 50 steps at the rates that the README names.

A seed says all of a network: its kind (perceptron, convolutions, transformer, LSTM), sizes, activation, normalisation,
initial weights, loss, and the data, whose inputs and targets have scales and means of their own over eight decades.
The rate falls linearly to zero. Networks that have a record are not run again.

    python benchmarks/random_networks.py --networks 1000
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax

import lnb

ROOT = Path(__file__).parent
RATES = (0.02, 0.05)
STEPS = 50
ROWS = 256
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "sin": jnp.sin,
    "softplus": jax.nn.softplus,
}
NORMALISATIONS = ("none", "layer", "rms", "batch")


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement."""

    networks: int = 1000
    """How many: those of the seeds below this."""
    output: Path = ROOT / "results" / "random-networks.json"
    """Where the records go."""


@dataclass(frozen=True)
class Spec:
    """A network and its data."""

    seed: int
    kind: str
    depth: int
    width: int
    activation: str
    normalisation: str
    residual: bool
    bias: bool
    weight_scale: float  # of the initial weights, times 1 / sqrt(inputs)
    zero_head: bool
    loss: str
    outputs: int
    inputs: int
    length: int  # of a sequence, or an image's side
    batch: int
    data_scale: float
    spread: float  # standard deviation of the features' scales, in decades
    shift: float  # mean of the features in standard deviations
    target_scale: float
    target_shift: float  # in units of the scale


def draw(seed: int) -> Spec:
    """The network of a seed."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(["perceptron", "perceptron", "convolutions", "transformer", "lstm"]))
    loss = str(rng.choice(["squares", "squares", "cross-entropy", "logistic"]))
    return Spec(
        seed=seed,
        kind=kind,
        depth=int(rng.integers(1, 7 if kind == "perceptron" else 4)),
        width=int(2 ** rng.integers(2, {"perceptron": 8, "convolutions": 5}.get(kind, 6))),
        activation=str(rng.choice(list(ACTIVATIONS))),
        normalisation=str(rng.choice(NORMALISATIONS)),
        residual=bool(rng.integers(2)),
        bias=bool(rng.integers(4)),
        weight_scale=float(10 ** rng.uniform(-0.5, 0.5)),
        zero_head=bool(rng.integers(5) == 0),
        loss=loss,
        outputs=int(rng.integers(2, 11)) if loss != "squares" else int(rng.integers(1, 4)),
        inputs=int(rng.integers(1, 33)) if kind != "convolutions" else int(rng.integers(1, 4)),
        length=int(rng.integers(3, 7)),
        batch=int(2 ** rng.integers(3, 8)),
        data_scale=float(10 ** rng.uniform(-4, 4)),
        spread=float(rng.choice([0.0, 0.0, 1.0])),
        shift=float(rng.choice([0.0, 1.0, 10.0])),
        target_scale=float(10 ** rng.uniform(-4, 4)),
        target_shift=float(rng.choice([0.0, 0.0, 3.0])),
    )


def make_data(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and targets that a random network of the standardised inputs gives."""
    rng = np.random.default_rng([spec.seed, 1])
    shape = {
        "perceptron": (),
        "convolutions": (spec.length, spec.length),
        "transformer": (spec.length,),
        "lstm": (spec.length,),
    }[spec.kind]
    features = rng.normal(size=(ROWS, *shape, spec.inputs)) @ (
        rng.normal(size=(spec.inputs, spec.inputs)) / spec.inputs**0.5
    )
    hidden = np.tanh(features.reshape(ROWS, -1) @ rng.normal(size=(features[0].size, 16)) / features[0].size ** 0.5)
    scores = hidden @ rng.normal(size=(16, spec.outputs)) + 0.1 * rng.normal(size=(ROWS, spec.outputs))
    x = (features + spec.shift) * spec.data_scale * 10 ** (spec.spread * rng.normal(size=spec.inputs))
    if spec.loss == "squares":
        y = spec.target_scale * (scores + spec.target_shift)
    elif spec.loss == "logistic":
        y = scores > 0
    else:
        return x.astype(np.float32), scores.argmax(1)
    return x.astype(np.float32), y.astype(np.float32)


def make_network(spec: Spec) -> tuple[dict[str, Any], Callable[[dict[str, Any], jax.Array], jax.Array]]:
    """Parameters, and a function of them and of inputs that gives the outputs."""
    rng = np.random.default_rng([spec.seed, 2])
    act, width = ACTIVATIONS[spec.activation], spec.width
    params: dict[str, Any] = {}

    def linear(name: str, *shape: int, scale: float = spec.weight_scale) -> None:
        inputs = int(np.prod(shape[:-1]))
        params[name] = {"w": jnp.asarray(rng.normal(size=shape) * scale / inputs**0.5, jnp.float32)}
        if spec.bias:
            params[name]["b"] = jnp.zeros(shape[-1], jnp.float32)

    def normalisation(name: str) -> None:
        if spec.normalisation != "none":
            params[name] = {"scale": jnp.ones(width, jnp.float32), "shift": jnp.zeros(width, jnp.float32)}

    def dense(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x @ params["w"] + params.get("b", 0.0)

    def conv(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + params.get("b", 0.0)

    def normalise(params: dict[str, Any], name: str, x: jax.Array) -> jax.Array:
        if spec.normalisation == "none":
            return x
        axes = tuple(range(x.ndim - 1)) if spec.normalisation == "batch" else (-1,)
        if spec.normalisation != "rms":
            x = x - x.mean(axes, keepdims=True)
        x = x / jnp.sqrt(jnp.square(x).mean(axes, keepdims=True) + 1e-5)
        return params[name]["scale"] * x + params[name]["shift"]

    def add(x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y if spec.residual else y

    kernel = (3, 3) if spec.kind == "convolutions" else ()
    linear("embed", *kernel, spec.inputs, width)
    for k in range(spec.depth):
        normalisation(f"norm{k}")
        match spec.kind:
            case "perceptron" | "convolutions":
                linear(f"layer{k}", *kernel, width, width)
            case "transformer":
                for part in "qkvo":
                    linear(f"{part}{k}", width, width)
                linear(f"up{k}", width, 2 * width)
                linear(f"down{k}", 2 * width, width)
            case "lstm":
                linear(f"layer{k}", 2 * width, 4 * width)
    linear("head", width, spec.outputs, scale=0.0 if spec.zero_head else spec.weight_scale)

    def attend(params: dict[str, Any], k: int, x: jax.Array) -> jax.Array:
        q, key, v = (dense(params[f"{part}{k}"], x) for part in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, key) / width**0.5)
        return dense(params[f"o{k}"], weights @ v)

    def recur(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        def cell(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            c, h = carry
            i, f, g, o = jnp.split(dense(params, jnp.concatenate([x, h], -1)), 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        zero = jnp.zeros((len(x), width))
        return lax.scan(cell, (zero, zero), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    layer = conv if kernel else dense

    def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
        x = layer(params["embed"], x)
        x = act(x) if spec.kind in ("perceptron", "convolutions") else x
        for k in range(spec.depth):
            normal = normalise(params, f"norm{k}", x)
            match spec.kind:
                case "perceptron" | "convolutions":
                    x = add(x, act(layer(params[f"layer{k}"], normal)))
                case "transformer":
                    x = x + attend(params, k, normal)
                    x = x + dense(params[f"down{k}"], act(dense(params[f"up{k}"], x)))
                case "lstm":
                    x = add(x, recur(params[f"layer{k}"], normal))
        x = x.mean(tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x
        return dense(params["head"], x)

    return params, apply


def train(spec: Spec) -> dict[str, Any]:
    """The loss on all rows before training, and after it at each rate."""
    x, y = make_data(spec)
    params, apply = make_network(spec)

    def loss_fn(params: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
        outputs = apply(params, x)
        match spec.loss:
            case "squares":
                return jnp.square(outputs - y).mean()
            case "logistic":
                return optax.sigmoid_binary_cross_entropy(outputs, y).mean()
            case _:
                return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    neurons = lnb.find_neurons(loss_fn, params, x[: spec.batch], y[: spec.batch])
    rows = np.random.default_rng([spec.seed, 3]).integers(0, ROWS, (STEPS, spec.batch))

    @jax.jit
    def final_loss(rate: jax.Array) -> jax.Array:
        optimizer = lnb.lnb(neurons, lambda count: rate * (1 - count / STEPS))

        def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
            params, state = carry
            _, grads, features = neurons.value_and_grad(params, *(part[rows] for part in data))
            updates, state = optimizer.update(grads, state, params, features=features)
            return (optax.apply_updates(params, updates), state), None

        (trained, _), _ = lax.scan(step, (params, optimizer.init(params)), rows)
        return loss_fn(trained, *data)

    data = jnp.asarray(x), jnp.asarray(y)
    last = [float(final_loss(jnp.float32(rate))) for rate in RATES]
    return {"first": float(loss_fn(params, *data)), "last": last}


def failures(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records whose loss is not finite at the end, or above the first by more than 10 %, at one of the rates."""
    return [record for record in records if not all(last <= 1.1 * record["first"] for last in record["last"])]


def main(settings: Settings) -> None:
    """Run what has no record, and print what failed."""
    records = json.loads(settings.output.read_text()) if settings.output.exists() else []
    known = {record["spec"]["seed"] for record in records}
    for seed in range(settings.networks):
        if seed in known:
            continue
        spec = draw(seed)
        records.append({"spec": asdict(spec), **train(spec)})
        jax.clear_caches()
        settings.output.write_text(json.dumps(records))
        for record in failures(records[-1:]):
            print(record)
    print(f"{len(failures(records))} of {len(records)} failed.")


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    main(tyro.cli(Settings))
