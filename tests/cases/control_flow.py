"""Layers inside transformations: jit, remat, custom derivatives, scans, loops, branches."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from cases._case import Case, Layer, normal

X = normal(6, 3)
SQUARE = {"w": normal(3, 3), "b": normal(3)}
STACK = {"w": normal(4, 3, 3), "b": normal(4, 3)}


def dense(h, layer):
    """A layer with its nonlinearity."""
    return jnp.tanh(h @ layer[0] + layer[1])


def through_layers(params, h):
    """The inputs of a stack of tanh layers, layer by layer."""
    inputs = []
    for weight, bias in zip(params["w"], params["b"], strict=True):
        inputs.append(h)
        h = dense(h, (weight, bias))
    return jnp.stack(inputs)


def over_devices(params, x):
    """A layer whose examples are split over two devices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split = P("data")
    return jax.shard_map(lambda p, x: dense(x, (p["w"], p["b"])), mesh=mesh, in_specs=(P(), split), out_specs=split)(
        params, x
    )


def over_layers(body, **options):
    """A scan over the stack."""

    def apply(params, x):
        return jax.lax.scan(lambda h, layer: (body(h, layer), None), x, (params["w"], params["b"]), **options)[0]

    return apply


def layer_by_layer(params, h):
    """The stack's layers without a scan."""
    for k in range(4):
        h = dense(h, (params["w"][k], params["b"][k]))
    return h


def layers_output(sub, params, x):
    """What the stack's layers give, layer by layer."""
    return jnp.einsum("lni,lio->lno", through_layers(params, x), sub["w"]) + sub["b"][:, None]


def time_states(params, x):
    """The states of a recurrent network before each step."""
    h, inputs = jnp.zeros(3), []
    for step in x:
        inputs.append(h)
        h = jnp.tanh(h @ params["w"] + step + params["b"])
    return jnp.stack(inputs)


def nested_jit(depth):
    """The layer inside that many calls of `jax.jit`."""
    function = dense
    for _ in range(depth):
        function = jax.jit(lambda h, layer, f=function: f(h, layer))
    return lambda p, x: function(x, (p["w"], p["b"]))


def remat(policy=None):
    """The layer checkpointed."""
    return lambda p, x: jax.checkpoint(dense, policy=policy)(x, (p["w"], p["b"]))


def named(p, x):
    """The layer, its output with a name for a policy."""
    return jnp.tanh(checkpoint_name(x @ p["w"] + p["b"], "hidden"))


@jax.custom_jvp
def halved(w, x):
    """A layer inside a function with its own forward derivative."""
    return jnp.tanh(x @ w)


@halved.defjvp
def _halved_jvp(primals, tangents):
    return halved(*primals), 0.5 * jax.jvp(lambda w, x: jnp.tanh(x @ w), primals, tangents)[1]


@jax.custom_vjp
def doubled(w, x):
    """A layer inside a function with its own backward derivative."""
    return jnp.tanh(x @ w)


doubled.defvjp(
    lambda w, x: (doubled(w, x), (w, x)),
    lambda saved, g: jax.vjp(lambda w, x: jnp.tanh(x @ w), *saved)[1](2 * g),
)


@jax.custom_jvp
def bent(y):
    """A nonlinearity with its own forward derivative."""
    return jnp.tanh(y)


bent.defjvp(lambda primals, tangents: (bent(*primals), 0.5 * tangents[0]))


@jax.custom_vjp
def clipped(y):
    """A nonlinearity with its own backward derivative."""
    return jnp.tanh(y)


clipped.defvjp(lambda y: (jnp.tanh(y), None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


def square(name, apply, samples=6, output=lambda s, p, x: x @ s["w"] + s["b"], x=X):
    """One layer of 3 features and 3 outputs."""
    return Case(name, apply, SQUARE, (x,), (Layer(("b", "w"), "dense", (1, 3, 3), samples, output),))


def stacked(name, apply):
    """Four layers whose parameters are stacked."""
    return Case(name, apply, STACK, (X,), (Layer(("b", "w"), "dense", (4, 3, 3), 6, layers_output),))


def two(name, apply):
    """A layer of weight w inside, and one of weight v outside."""
    return Case(
        name,
        apply,
        {"w": SQUARE["w"], "v": normal(3, 2)},
        (X,),
        (
            Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"]),
            Layer(("v",), "dense", (1, 3, 2), 6, lambda s, p, x: jnp.tanh(x @ p["w"]) @ s["v"]),
        ),
    )


POLICIES = jax.checkpoint_policies

JIT = [
    square("`jit` in `jit`", nested_jit(2)),
    square("`jit`, five deep", nested_jit(5)),
    square("`vmap` of `jit`", lambda p, x: jax.vmap(lambda x: nested_jit(1)(p, x))(x)),
    square("`checkpoint`", remat()),
    square("`checkpoint`, policy `dots_saveable`", remat(POLICIES.dots_saveable)),
    square("`checkpoint`, policy `dots_with_no_batch_dims_saveable`", remat(POLICIES.dots_with_no_batch_dims_saveable)),
    square("`checkpoint`, policy `nothing_saveable`", remat(POLICIES.nothing_saveable)),
    square("`checkpoint`, policy `everything_saveable`", remat(POLICIES.everything_saveable)),
    square(
        "`checkpoint`, policy `save_only_these_names`",
        lambda p, x: jax.checkpoint(named, policy=POLICIES.save_only_these_names("hidden"))(p, x),
    ),
    square("`jit` of `checkpoint` of `jit`", lambda p, x: jax.jit(jax.checkpoint(nested_jit(1)))(p, x)),
    two("`custom_jvp` with a layer inside", lambda p, x: halved(p["w"], x) @ p["v"]),
    two("`custom_vjp` with a layer inside", lambda p, x: doubled(p["w"], x) @ p["v"]),
    two("`custom_jvp` next to layers", lambda p, x: bent(x @ p["w"]) @ p["v"]),
    two("`custom_vjp` next to layers", lambda p, x: clipped(x @ p["w"]) @ p["v"]),
]


def loop_output(s, p, x):
    """Two applications of one layer."""
    return jnp.concatenate([x, dense(x, (p["w"], p["b"]))]) @ s["w"] + s["b"]


def grid_states(p, x):
    """The states of a recurrent network that runs through rows of steps."""
    return time_states(p, x.reshape(-1, 3))


LOOPS = [
    stacked("`scan` over layers", over_layers(dense)),
    stacked("`scan` over layers, unrolled by two", over_layers(dense, unroll=2)),
    stacked("`scan` over layers, each checkpointed", over_layers(lambda h, layer: jax.checkpoint(dense)(h, layer))),
    stacked("`vmap` of a `scan` over layers", lambda p, x: jax.vmap(lambda x: over_layers(dense)(p, x))(x)),
    Case(
        "`jax.shard_map` with replicated parameters",
        over_devices,
        SQUARE,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"] + s["b"]),),
    ),
    Case(
        "`for` over the stack's layers",
        layer_by_layer,
        STACK,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 12), 6, layers_output, parts=4),),
    ),
    square(
        "`scan` over time",
        lambda p, x: jax.lax.scan(lambda h, s: (jnp.tanh(h @ p["w"] + s + p["b"]),) * 2, jnp.zeros(3), x)[1],
        output=lambda s, p, x: time_states(p, x) @ s["w"] + s["b"],
    ),
    square(
        "`scan` over time, backwards",
        lambda p, x: jax.lax.scan(lambda h, s: (jnp.tanh(h @ p["w"] + s + p["b"]),) * 2, jnp.zeros(3), x, reverse=True)[
            1
        ],
        output=lambda s, p, x: time_states(p, x[::-1]) @ s["w"] + s["b"],
    ),
    square(
        "`scan` over time in a `scan` over rows",
        lambda p, x: jax.lax.scan(
            lambda h, row: jax.lax.scan(lambda h, s: (jnp.tanh(h @ p["w"] + s + p["b"]),) * 2, h, row),
            jnp.zeros(3),
            x,
        )[1],
        output=lambda s, p, x: grid_states(p, x) @ s["w"] + s["b"],
        x=normal(2, 3, 3),
    ),
    Case(
        "`scan` over time from a learnt state",
        lambda p, x: jax.lax.scan(lambda h, s: (jnp.tanh(h @ p["w"] + s),) * 2, p["h"], x)[1],
        {"w": SQUARE["w"], "h": normal(3)},
        (X,),
        (
            Layer(("h",), "identity", (3, 0, 1), 1, lambda s, p, x: s["h"]),
            Layer(
                ("w",),
                "dense",
                (1, 3, 3),
                6,
                lambda s, p, x: jnp.stack([p["h"], *_from_state(p, x)][:-1]) @ s["w"],
            ),
        ),
    ),
    square("`map` over examples", lambda p, x: jax.lax.map(lambda row: jnp.tanh(row @ p["w"] + p["b"]), x)),
    square(
        "`map` over examples, in batches",
        lambda p, x: jax.lax.map(lambda row: jnp.tanh(row @ p["w"] + p["b"]), x, batch_size=2),
    ),
    square(
        "`fori_loop` of fixed length",
        lambda p, x: jax.lax.fori_loop(0, 2, lambda _, h: dense(h, (p["w"], p["b"])), x),
        samples=12,
        output=loop_output,
    ),
    Case(
        "`fori_loop` that picks the layer, `w[k]`",
        lambda p, x: jax.lax.fori_loop(0, 4, lambda k, h: jnp.tanh(h @ p["w"][k]), x),
        {"w": STACK["w"]},
        (X,),
        (
            Layer(
                ("w",),
                "ragged",
                (4, 3, 3),
                6,
                lambda s, p, x: jnp.einsum(
                    "lni,lio->lno", through_layers({"w": p["w"], "b": jnp.zeros((4, 3))}, x), s["w"]
                ),
            ),
        ),
    ),
    Case(
        "`vmap` over an ensemble",
        lambda p, x: jax.vmap(lambda w, b: jnp.tanh(x @ w + b))(p["w"], p["b"]),
        {"w": normal(4, 3, 2), "b": normal(4, 2)},
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 8), 6, lambda s, p, x: jnp.einsum("ni,eio->neo", x, s["w"]) + s["b"]),),
    ),
]


def _from_state(p, x):
    h, states = p["h"], []
    for step in x:
        h = jnp.tanh(h @ p["w"] + step)
        states.append(h)
    return states


BRANCHES = [
    square(
        "`cond`, the branch that runs",
        lambda p, x: jax.lax.cond(x[0, 0] < 9, lambda h: dense(h, (p["w"], p["b"])), lambda h: h, x),
    ),
    square(
        "`cond`, the branch that is passed over",
        lambda p, x: jax.lax.cond(x[0, 0] > 9, lambda h: dense(h, (p["w"], p["b"])), lambda h: h, x),
        output=lambda s, p, x: 0 * (x @ s["w"] + s["b"]),
    ),
    Case(
        "`switch`, a layer in each branch",
        lambda p, x: jax.lax.switch(
            (x[0, 0] < 9).astype(int) + 1,
            [lambda h: h, lambda h: jnp.tanh(h @ p["w"] + p["b"]), lambda h: jnp.sin(h @ p["v"] + p["c"])],
            x,
        ),
        {**SQUARE, "v": normal(3, 3, seed=5), "c": normal(3, seed=5)},
        (X,),
        (
            Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: 0 * (x @ s["w"] + s["b"])),
            Layer(("c", "v"), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["v"] + s["c"]),
        ),
    ),
]


SLOTS = 8
"""How many iterations of a loop of unknown length are kept at most."""


def unrolled(step, length, params, h):
    """The states before each step, and the last one."""
    states = [h]
    for k in range(length):
        states.append(step(params, states[-1], k))
    return states


def as_while(step, length):
    """Steps in a loop whose length JAX does not know, with the derivative of the same steps unrolled."""

    def run(params, x):
        def iterate(state):
            return step(params, *state), state[1] + 1

        return jax.lax.while_loop(lambda state: state[1] < length, iterate, (x, 0))[0]

    looped = jax.custom_vjp(run)
    looped.defvjp(
        lambda params, x: (run(params, x), (params, x)),
        lambda saved, g: jax.vjp(lambda p, x: unrolled(step, length, p, x)[-1], *saved)[1](g),
    )
    return looped


def kept_output(step, length, stride):
    """The layer's output at every `stride`-th of the loop's states."""

    def output(s, p, x):
        states = jnp.stack(unrolled(step, length, p, x)[:length:stride])
        return (states @ s["w"] + s["b"]) * (SLOTS / len(states)) ** 0.5

    return output


def one_layer(params, h, k):
    """A step that is one layer."""
    return dense(h, (params["w"], params["b"]))


def thirds(params, h, k):
    """A step in which the layer runs each third time."""
    return jax.lax.cond(k % 3 == 0, lambda h: one_layer(params, h, k), lambda h: jnp.sin(h) + 0.1, h)


def picking(params, h, k):
    """A step that picks its layer."""
    return jnp.tanh(h @ params["w"][k % 4])


def looking_up(params, h, k):
    """A step that adds rows of a table."""
    return jnp.sin(h) + params["w"][(jnp.abs(h[:, 0] * 10).astype(int) + k) % 5]


def scaling(params, h, k):
    """A step that scales features."""
    return jnp.sin(h * params["w"] + 1)


def twice(params, h, k):
    """A step that runs through its layer in a scan."""
    return jax.lax.scan(lambda h, _: (one_layer(params, h, k), None), h, None, length=2)[0]


def first_outside(params, x):
    """A fixed point's first evaluation, and the loop after it."""
    return as_while(one_layer, 12)(params, one_layer(params, x, 0))


def first_outside_output(s, p, x):
    """Of 12 iterations every second is kept, and stands for two."""
    first = jnp.concatenate([x[None], 2**0.5 * jnp.stack(unrolled(one_layer, 12, p, one_layer(p, x, 0))[:12:2])])
    weights = jnp.concatenate([jnp.ones(1), jnp.full(6, 2**0.5)])
    return (first @ s["w"] + weights[:, None, None] * s["b"]) * ((1 + SLOTS) / 13) ** 0.5


def each_its_own(mapped, lengths):
    """A loop for each example, as long as its number in `lengths` says, mapped over the examples."""

    def run(params, x):
        def solve(start, length):
            return jax.lax.while_loop(
                lambda state: state[1] < length,
                lambda state: (one_layer(params, *state), state[1] + 1),
                (start, 0),
            )[0]

        return mapped(solve, x, jnp.asarray(lengths))

    def apart(params, x):
        return jnp.stack([unrolled(one_layer, k, params, row)[-1] for k, row in zip(lengths, x, strict=True)])

    looped = jax.custom_vjp(run)
    looped.defvjp(lambda params, x: (run(params, x), (params, x)), lambda saved, g: jax.vjp(apart, *saved)[1](g))
    return looped


def together_output(s, p, x):
    """Loops of 3 to 8 iterations in a `vmap`: a row that has ended stays as it is until all have."""
    rows = [unrolled(one_layer, 3 + k, p, row) for k, row in enumerate(x)]
    states = jnp.stack([jnp.stack([*states, *[states[-1]] * 8][:8]) for states in rows])
    return states @ s["w"] + s["b"]


def solve_each_output(s, p, x):
    """Loops of 0, 2, 4, 6, 8 and 10 iterations; of the last every second is kept, and stands for two."""
    rows = []
    for k, row in enumerate(x):
        states = unrolled(one_layer, 2 * k, p, row)[: 2 * k]
        rows += [(state, 1.0) for state in states] if k < 5 else [(state, 2.0) for state in states[::2]]
    roots = jnp.sqrt(jnp.asarray([weight for _, weight in rows]))
    outputs = jnp.stack([state for state, _ in rows]) @ s["w"] + s["b"]
    return outputs * roots[:, None] * (6 * SLOTS / 30) ** 0.5


WHILE = [
    *(
        square(
            f"`while` of {length} iterations, in a `custom_vjp`",
            as_while(one_layer, length),
            samples=6 * SLOTS,
            output=kept_output(one_layer, length, stride),
        )
        for length, stride in ((5, 1), (8, 1), (9, 2), (20, 4))
    ),
    square(
        "`while` of no iterations",
        as_while(one_layer, 0),
        samples=6 * SLOTS,
        output=lambda s, p, x: 0 * (x @ s["w"] + s["b"]),
    ),
    square(
        "a layer before a `while` and inside it",
        first_outside,
        samples=6 + 6 * SLOTS,
        output=first_outside_output,
    ),
    square(
        "`cond` in a `while`",
        as_while(thirds, 9),
        samples=6 * SLOTS,
        output=lambda s, p, x: (jnp.stack(unrolled(thirds, 9, p, x)[0:9:6]) @ s["w"] + s["b"]) * (SLOTS / 2) ** 0.5,
    ),
    square(
        "`scan` in a `while`",
        as_while(twice, 3),
        samples=12 * SLOTS,
        output=lambda s, p, x: (jnp.stack(unrolled(one_layer, 6, p, x)[:6]) @ s["w"] + s["b"]) * (SLOTS / 3) ** 0.5,
    ),
    square(
        "`while` in a `map`, each of its own length",
        each_its_own(lambda solve, *rows: jax.lax.map(lambda row: solve(*row), rows), range(0, 12, 2)),
        samples=6 * SLOTS,
        output=solve_each_output,
    ),
    square(
        "`while` in a `vmap`, each of its own length",
        each_its_own(lambda solve, *rows: jax.vmap(solve)(*rows), range(3, 9)),
        samples=6 * SLOTS,
        output=together_output,
    ),
    square(
        "`while` in `jit` of `checkpoint`",
        lambda p, x: jax.jit(jax.checkpoint(as_while(one_layer, 5)))(p, x),
        samples=6 * SLOTS,
        output=kept_output(one_layer, 5, 1),
    ),
    square(
        "`while` in a branch that runs",
        lambda p, x: jax.lax.cond(x[0, 0] < 9, lambda h: as_while(one_layer, 9)(p, h), lambda h: h, x),
        samples=6 * SLOTS,
        output=kept_output(one_layer, 9, 2),
    ),
    Case(
        "`while` that picks the layer, `w[k % 4]`",
        as_while(picking, 8),
        {"w": STACK["w"]},
        (X,),
        (
            Layer(
                ("w",),
                "ragged",
                (4, 3, 3),
                6 * SLOTS // 4,
                lambda s, p, x: jnp.einsum(
                    "lni,lio->lno", jnp.stack(unrolled(picking, 8, p, x)[:8]), s["w"][np.arange(8) % 4]
                ),
            ),
        ),
    ),
    Case(
        "`while` that looks up rows",
        as_while(looking_up, 10),
        {"w": normal(5, 3)},
        (X,),
        (
            Layer(
                ("w",),
                "embedding",
                (1, 5, 3),
                6 * SLOTS,
                lambda s, p, x: (
                    jnp.stack(
                        [
                            looking_up(s, h, 2 * k) - jnp.sin(h)
                            for k, h in enumerate(unrolled(looking_up, 10, p, x)[:10:2])
                        ]
                    )
                    * (SLOTS / 5) ** 0.5
                ),
            ),
        ),
    ),
    Case(
        "`while` that scales",
        as_while(scaling, 9),
        {"w": normal(3)},
        (X,),
        (
            Layer(
                ("w",),
                "scale",
                (3, 1, 1),
                6 * SLOTS,
                lambda s, p, x: jnp.stack(unrolled(scaling, 9, p, x)[:9:2]) * s["w"] * (SLOTS / 5) ** 0.5,
            ),
        ),
    ),
    Case(
        "`while` from a learnt state",
        lambda p, x: as_while(lambda p, h, k: jnp.tanh(h @ p["w"]), 3)(p, p["h"]) + x,
        {"w": SQUARE["w"], "h": normal(3)},
        (X,),
        (
            Layer(("h",), "identity", (3, 0, 1), 1, lambda s, p, x: s["h"]),
            Layer(
                ("w",),
                "dense",
                (1, 3, 3),
                SLOTS,
                lambda s, p, x: (
                    jnp.stack(unrolled(lambda p, h, k: jnp.tanh(h @ p["w"]), 3, p, p["h"])[:3])
                    @ s["w"]
                    * (SLOTS / 3) ** 0.5
                ),
            ),
        ),
    ),
]
