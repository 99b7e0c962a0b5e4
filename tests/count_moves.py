"""How many files a call goes through, and how often it moves from one to another.

A move is a call of a function in another file of `src/lnb` than the function called before it: a reader who follows the
call has to turn that many pages. Comprehensions belong to the function that they are in.

    python tests/count_moves.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lnb

SOURCE = Path(lnb.__file__).parent
_COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}  # of their own before Python 3.12


class Moves(NamedTuple):
    """The files that a call goes through, in the order in which it moves to them."""

    path: tuple[str, ...]

    @property
    def moves(self) -> int:
        return len(self.path)

    @property
    def files(self) -> set[str]:
        return set(self.path)


def count_moves(function: Callable[[], Any], source: Path = SOURCE) -> Moves:
    """Follow a call.

    Args:
        function: what to call.
        source: the folder whose files count.
    """
    path: list[str] = []

    def follow(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(source)) and frame.f_code.co_name not in _COMPREHENSIONS:
            file = str(Path(name).relative_to(source))
            if not path or path[-1] != file:
                path.append(file)

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        function()
    finally:
        sys.setprofile(before)
    return Moves(tuple(path))


def dense_layer() -> tuple[Callable[..., Any], dict[str, jax.Array], jax.Array]:
    """A loss with one dense layer, its parameters and a batch."""

    def loss_fn(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["weight"] + params["bias"]).sum()

    return loss_fn, {"weight": jnp.ones((8, 4)), "bias": jnp.zeros(4)}, jnp.ones((16, 8))


def moves_of_find_neurons() -> Moves:
    """Of `lnb.find_neurons` for one dense layer."""
    lnb.find_neurons(*dense_layer())  # which loads the search
    loss_fn, params, x = dense_layer()
    return count_moves(lambda: lnb.find_neurons(loss_fn, params, x))


def moves_of_update(*, again: bool = False, **settings: Any) -> Moves:
    """Of tracing one `update` for one dense layer, by default with the default solver and step.

    Args:
        again: trace it for a second time. What a layer shares with all that are like it, the inside of its solver and
            of its step, is then traced already.
        **settings: of `lnb.lnb`.
    """
    loss_fn, params, x = dense_layer()
    neurons = lnb.find_neurons(loss_fn, params, x)
    optimizer = lnb.lnb(neurons, 0.1, **settings)
    state = optimizer.init(params)
    _, grads, features = neurons.value_and_grad(params, x)

    def trace() -> None:
        jax.make_jaxpr(lambda *args: optimizer.update(*args[:3], features=args[3]))(grads, state, params, features)

    jax.clear_caches()
    if again:
        trace()
    return count_moves(trace)


def report(name: str, moves: Moves) -> str:
    """One line, and the path."""
    return f"{name}: {moves.moves} moves through {len(moves.files)} files\n  " + " > ".join(moves.path) + "\n"


if __name__ == "__main__":
    sys.stdout.write(report("update", moves_of_update()))
    sys.stdout.write(report("update, of a layer like one that is traced", moves_of_update(again=True)))
    sys.stdout.write(report("find_neurons", moves_of_find_neurons()))
