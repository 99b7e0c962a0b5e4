"""What a data parallel step communicates beyond Adam's, by solver, as Markdown.

For a dense layer with a bias, i inputs and o outputs, by formula and read from the program that eight devices run. For
a decoder like GPT-2 with 124 M parameters, read from the traced program.

    JAX_NUM_CPU_DEVICES=8 python benchmarks/communication.py
"""

from __future__ import annotations

import re
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from state_size import MODELS, SOLVERS

import lnb

_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", re.MULTILINE
)
_ARRAY = re.compile(r"([a-z]+)(\d+)\w*\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


class Collective(NamedTuple):
    """An operation in which devices exchange arrays."""

    kind: str
    sizes: tuple[int, ...]  # elements of each array that it gives
    size: int  # their bytes
    always: bool  # whether it is outside of branches and loops


def collectives(program: str) -> list[Collective]:
    r"""The collectives of a compiled program.

    >>> collectives("ENTRY %main (p: f32[2]) -> f32[4] {\n  %g = f32[4]{0} all-gather(%p), dimensions={0}\n}\n")
    [Collective(kind='all-gather', sizes=(4,), size=16, always=True)]
    """
    found = []
    for entry, _, body in _COMPUTATION.findall(program):
        for shapes, kind in _COLLECTIVE.findall(body):
            arrays = [
                (int(bits), prod(map(int, filter(None, sizes.split(","))))) for _, bits, sizes in _ARRAY.findall(shapes)
            ]
            sizes = tuple(size for _, size in arrays)
            found.append(Collective(kind, sizes, sum(bits * size for bits, size in arrays) // 8, bool(entry)))
    return found


def loss_fn(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """One layer."""
    return jnp.mean(jnp.square(jnp.tanh(x @ params["weight"] + params["bias"]) - 1))


def measured(optimizer: Any, neurons: Any, params: Any, x: jax.Array) -> tuple[int, int]:
    """The bytes that a step's collectives give: in every step, and more in a step that renews an inverse."""

    def step(params, state, x):
        _, grads, features = neurons.value_and_grad(params, x)
        extra = {} if optimizer is ADAM else {"features": features}
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    program = jax.jit(step).lower(params, optimizer.init(params), x).compile().as_text()
    found = collectives(program)
    return sum(each.size for each in found if each.always), sum(each.size for each in found if not each.always)


ADAM = optax.adam(1e-3)


def summed(jaxpr: Any, share: float = 1.0) -> float:
    """The bytes that replicas sum in a step, where a branch is taken in this share of the steps."""
    total = 0.0
    for equation in jaxpr.eqns:
        if "psum" in equation.primitive.name:
            total += share * sum(var.aval.size * var.aval.dtype.itemsize for var in equation.invars)
        held = [
            each for value in equation.params.values() for each in (value if isinstance(value, tuple) else (value,))
        ]
        inner = [getattr(each, "jaxpr", each) for each in held if hasattr(getattr(each, "jaxpr", each), "eqns")]
        within = share / lnb.Auto().update_period if equation.primitive.name == "cond" else share
        total += sum(summed(each, within) for each in inner)
    return total


def of_decoder(name: str = "124 M") -> None:
    """Print the bytes of a decoder's step."""
    model = MODELS[name]
    params, tokens = model.params(), jax.ShapeDtypeStruct((8, model.length + 1), jnp.int32)
    neurons = lnb.find_neurons(model.loss, params, tokens)
    gradient = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    print(f"\nGPT-2, {name}: the gradient has {gradient / 1e6:.0f} MB.\n")
    print("| solver | MB more, averaged over steps | of the gradient |\n|---|---|---|")
    for label, solver in SOLVERS.items():
        optimizer = lnb.lnb(neurons, 0.02, solver=solver, axis_name="data")

        def step(params, state, tokens, optimizer=optimizer):
            _, grads, features = neurons.value_and_grad(params, tokens)
            return optimizer.update(grads, state, params, features=features)

        state = jax.eval_shape(optimizer.init, params)
        more = summed(jax.make_jaxpr(step, axis_env=[("data", 8)])(params, state, tokens).jaxpr)
        print(f"| {label} | {more / 1e6:.1f} | {more / gradient:.1%} |")


def main(inputs: int = 256, outputs: int = 384, samples: int = 4096) -> None:
    """Print the table."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    params = {"weight": jnp.zeros((inputs, outputs)), "bias": jnp.zeros(outputs)}
    params, x = jax.device_put(params, whole), jax.device_put(jnp.zeros((samples, inputs)), split)
    neurons = lnb.find_neurons(loss_fn, params, x)
    base = measured(ADAM, neurons, params, x)[0]
    gradient = 4 * (inputs + 1) * outputs
    print(f"Adam: {base:,} bytes, of which the gradient's are {gradient:,}.\n")
    print("| solver | numbers in every step | bytes | measured | more in a step that renews | bytes | measured |")
    print("|---|---|---|---|---|---|---|")
    i, o, r = inputs, outputs, 16
    rows = {
        "Diagonal()": (lnb.Diagonal(), "2 i", 2 * i, "", 0),
        "LowRank()": (lnb.LowRank(r), "2 i + (i + 1) r", 2 * i + (i + 1) * r, "", 0),
        "Cholesky()": (lnb.Cholesky(), "", 0, "i^2 + i", i**2 + i),
        "CG(2)": (lnb.CG(2), "2 i + 3 (i + 1) o", 2 * i + 3 * (i + 1) * o, "", 0),
    }
    for name, (solver, formula, number, renewal, more) in rows.items():
        always, renewed = measured(lnb.lnb(neurons, 0.02, solver=solver), neurons, params, x)
        cells = [formula, f"{4 * number:,}", f"{always - base:,}", renewal, f"{4 * more:,}", f"{renewed:,}"]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
    of_decoder()
