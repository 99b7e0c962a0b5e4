"""Random programs: M v against dense Jacobians, values and gradients against the untouched loss, in float64.

A program is a list of instructions, interpreted twice: as JAX with its control flow, for the library, and in Python
loops that note every layer's inputs, for the dense Jacobians.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from oracle import dense_metric

import lnb

ACTIVATIONS = {"tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "sin": jnp.sin}
WRAPPERS = {
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda *args: jax.jit(f)(*args)),
    "checkpoint": jax.checkpoint,
    "checkpoint of jit": lambda f: jax.checkpoint(jax.jit(f)),
    "vmap": lambda f: jax.vmap(f, in_axes=(None, 0, None)),
}


@dataclass(frozen=True)
class Step:
    """An instruction: its name, the layer that it owns, how it is written, and the instructions inside."""

    name: str
    layer: str = ""
    how: str = ""
    inside: tuple["Step", ...] = ()


@dataclass
class Drawing:
    """What has been drawn so far: the shapes of the layers' parameters and how many flags there are."""

    shapes: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    flags: int = 0

    def layer(self, draw, inputs, outputs, stack=()):
        alike = [name for name, shape in self.shapes.items() if shape["w"] == (*stack, inputs, outputs)]
        if alike and draw(st.booleans()):
            return alike[0]  # the same weights once more
        name = f"layer{len(self.shapes)}"
        self.shapes[name] = {"w": (*stack, inputs, outputs)}
        if draw(st.booleans()):
            self.shapes[name]["b"] = (*stack, outputs)
        return name


def draw_linear(draw, drawing, inputs, outputs):
    how = draw(st.sampled_from(["dot", "transposed", "einsum"]))
    return Step("linear", drawing.layer(draw, inputs, outputs), how)


def draw_activation(draw):
    return Step("activation", how=draw(st.sampled_from(sorted(ACTIVATIONS))))


def draw_same_shape(draw, drawing, width, rank, depth):
    """Instructions whose output has the shape of their input, and ends in a nonlinearity."""
    names = ["layers", "scan over layers", "loop"]
    if depth:
        names += ["residual", "wrapped", "cond"] + (["map", "scan over time"] if rank > 1 else [])
    name = draw(st.sampled_from(names))
    if name == "layers":
        middle = draw(st.integers(1, 3))
        first = draw_linear(draw, drawing, width, middle), draw_activation(draw)
        return (*first, draw_linear(draw, drawing, middle, width), draw_activation(draw))
    if name == "scan over layers":
        how = draw(st.sampled_from(["plain", "checkpoint"]))
        return (Step(name, drawing.layer(draw, width, width, stack=(2,)), how),)
    if name in ("loop", "scan over time"):
        return (Step(name, drawing.layer(draw, width, width)),)
    how = ""
    if name == "wrapped":
        how = draw(st.sampled_from(sorted(WRAPPERS) if rank > 1 else [w for w in sorted(WRAPPERS) if w != "vmap"]))
    if name == "cond":
        how, drawing.flags = str(drawing.flags), drawing.flags + 1
    fewer = name == "map" or how == "vmap"
    return (Step(name, how=how, inside=draw_same_shape(draw, drawing, width, rank - fewer, depth - 1)),)


@st.composite
def programs(draw):
    """Instructions, the shapes of their layers, the input's shape, the flags' values, and a seed."""
    drawing, width, rank = Drawing(), draw(st.integers(1, 4)), 2
    shape, steps = (draw(st.integers(1, 3)), width), []
    for _ in range(draw(st.integers(2, 4))):
        name = draw(st.sampled_from(["linear", "activation", "reshape", *["same shape"] * 4]))
        if name == "linear":
            outputs = draw(st.integers(1, 4))
            steps.append(draw_linear(draw, drawing, width, outputs))
            width = outputs
        elif name == "activation":
            steps.append(draw_activation(draw))
        elif name == "same shape":
            steps += draw_same_shape(draw, drawing, width, rank, depth=2)
        elif rank == 3:
            steps.append(Step("reshape", how="merge"))
            width, rank = 2 * width, 2
        elif width % 2 == 0:
            steps.append(Step("reshape", how="split"))
            width, rank = width // 2, 3
    steps.append(draw_linear(draw, drawing, width, 2))
    flags = [draw(st.booleans()) for _ in range(drawing.flags)]
    return tuple(steps), drawing.shapes, shape, flags, draw(st.integers(0, 99))


def affine(layer, h, how="dot"):
    """A layer's linear function as the drawing says to write it."""
    if how == "transposed":
        y = h @ layer["w"].T.reshape(layer["w"].shape[::-1]).T
    elif how == "einsum":
        y = jnp.einsum("...i,io->...o", h, layer["w"])
    else:
        y = h @ layer["w"]
    return y + layer["b"] if "b" in layer else y


def reshaped(h, how):
    """Every example's features as two tokens', or two tokens' as one's."""
    return h.reshape(h.shape[0], 2, -1) if how == "split" else h.reshape(h.shape[0], -1)


def run(steps, params, h, flags):
    """The program in JAX."""
    for step in steps:
        h = run_step(step, params, h, flags)
    return h


def run_step(step, params, h, flags):
    def inside(params, h, flags):
        return run(step.inside, params, h, flags)

    def layer_step(h, layer):
        return jnp.tanh(affine(layer, h))

    layer = params.get(step.layer)
    if step.name == "linear":
        return affine(layer, h, step.how)
    if step.name == "activation":
        return ACTIVATIONS[step.how](h)
    if step.name == "reshape":
        return reshaped(h, step.how)
    if step.name == "residual":
        return h + inside(params, h, flags)
    if step.name == "wrapped":
        return WRAPPERS[step.how](inside)(params, h, flags)
    if step.name == "cond":
        return lax.cond(flags[int(step.how)], lambda h: inside(params, h, flags), jnp.sin, h)
    if step.name == "map":
        return lax.map(lambda row: inside(params, row, flags), h)
    if step.name == "loop":
        return lax.fori_loop(0, 2, lambda _, h: layer_step(h, layer), h)
    if step.name == "scan over time":
        return lax.scan(lambda c, row: (jnp.tanh(affine(layer, c) + row),) * 2, jnp.zeros_like(h[0]), h)[1]
    assert step.name == "scan over layers"
    body = jax.checkpoint(layer_step) if step.how == "checkpoint" else layer_step
    return lax.scan(lambda h, layer: (body(h, layer), None), h, layer)[0]


def walk(steps, params, h, flags, inputs):
    """The program in Python loops; `inputs[layer]` gets a pair, which of a stack and the features, at every use."""
    for step in steps:
        h = walk_step(step, params, h, flags, inputs)
    return h


def walk_step(step, params, h, flags, inputs):
    def use(h, which=None):
        features = h.reshape(-1, h.shape[-1])
        inputs[step.layer].append((which, features))
        layer = params[step.layer]
        return affine(layer if which is None else {key: leaf[which] for key, leaf in layer.items()}, h)

    rows = step.name == "map" or step.how == "vmap"
    if rows:
        return jnp.stack([walk(step.inside, params, row, flags, inputs) for row in h])
    if step.name in ("residual", "wrapped"):
        y = walk(step.inside, params, h, flags, inputs)
        return h + y if step.name == "residual" else y
    if step.name == "cond":
        return walk(step.inside, params, h, flags, inputs) if flags[int(step.how)] else jnp.sin(h)
    if step.name == "linear":
        return use(h)
    if step.name in ("loop", "scan over layers"):
        for k in range(2):
            h = jnp.tanh(use(h, k if step.name == "scan over layers" else None))
        return h
    if step.name == "scan over time":
        states, carry = [], jnp.zeros_like(h[0])
        for row in h:
            carry = jnp.tanh(use(carry) + row)
            states.append(carry)
        return jnp.stack(states)
    return run_step(step, params, h, flags)  # activations and reshapes


def expected_metric(layer, uses):
    """The dense metric of a layer with these inputs; 0 of one that was passed over."""
    if not uses:
        size = sum(leaf.size for leaf in layer.values())
        return np.zeros((size, size))
    stacked = [jnp.concatenate([x for which, x in uses if which == k]) for k in sorted({k for k, _ in uses}, key=str)]
    features = jnp.stack(stacked)  # [g, n, i]

    def output(layer):
        y = jnp.einsum("gni,gio->gno", features, layer["w"].reshape(len(stacked), *layer["w"].shape[-2:]))
        return y + layer["b"].reshape(len(stacked), 1, -1) if "b" in layer else y

    return dense_metric(output, layer, features.shape[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(programs())
def test_random_programs(x64, quick_compilation, program):
    steps, shapes, shape, flags, seed = program
    random = np.random.default_rng(seed)
    params = {
        name: {key: jnp.asarray(random.normal(size=leaf)) for key, leaf in layer.items()}
        for name, layer in shapes.items()
    }
    vectors = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params)
    x, flags = jnp.asarray(random.normal(size=shape)), jnp.asarray(flags, bool)

    def loss_fn(params, x, flags):
        return jnp.mean(jnp.sin(run(steps, params, x, flags)) ** 2)

    neurons = lnb.find_neurons(loss_fn, params, x, flags, strict=True)

    @jax.jit
    def results(params, vectors, x, flags):
        value, grads, features = neurons.value_and_grad(params, x, flags)
        return value, grads, neurons.metric_product(features, vectors)

    value, grads, products = results(params, vectors, x, flags)
    expected, expected_grads = jax.jit(jax.value_and_grad(loss_fn))(params, x, flags)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-13)
    inputs: dict[str, list] = {name: [] for name in shapes}
    walk(steps, params, x, [bool(flag) for flag in flags], inputs)
    for name, layer in params.items():
        metric = expected_metric(layer, inputs[name])
        flat, product = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t[name])]) for t in (vectors, products)
        )
        np.testing.assert_allclose(product, metric @ flat, rtol=1e-8, atol=1e-11)
    assert {neuron.kind for neuron in neurons} == {"dense"}


@st.composite
def convolutions(draw):
    """A convolution's every setting."""
    space = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 2))
    return {
        "space": space,
        "groups": groups,
        "channels": groups * draw(st.integers(1, 2)),
        "outputs": groups * draw(st.integers(1, 2)),
        "kernel": tuple(draw(st.integers(1, 3)) for _ in range(space)),
        "strides": tuple(draw(st.integers(1, 2)) for _ in range(space)),
        "padding": [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(space)],
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(space)),
        "last": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(convolutions())
def test_random_convolutions(x64, quick_compilation, c):
    random, axes = np.random.default_rng(c["seed"]), "HW"[: c["space"]]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C") if c["last"] else (f"NC{axes}", f"OI{axes}", f"NC{axes}")
    sizes = {"N": 2, "C": c["channels"], "H": 6, "W": 5, "I": c["channels"] // c["groups"], "O": c["outputs"]}
    kernel = {**sizes, **dict(zip(axes, c["kernel"], strict=True))}
    x = jnp.asarray(random.normal(size=[sizes[a] for a in layout[0]]))
    params = {"w": jnp.asarray(random.normal(size=[kernel[a] for a in layout[1]]))}
    if c["bias"]:
        params["b"] = jnp.asarray(random.normal(size=c["outputs"]))

    def apply(params, x):
        y = lax.conv_general_dilated(
            x,
            params["w"],
            c["strides"],
            c["padding"],
            rhs_dilation=c["dilation"],
            dimension_numbers=layout,
            feature_group_count=c["groups"],
        )
        if not c["bias"]:
            return y
        return y + (params["b"] if c["last"] else params["b"].reshape(-1, *[1] * c["space"]))

    neurons = lnb.find_neurons(lambda p, x: jnp.mean(jnp.sin(apply(p, x))), params, x, strict=True)
    (neuron,) = neurons
    assert neuron.kind == "convolution"
    metric = dense_metric(lambda p: apply(p, x), params, apply(params, x).size // c["outputs"])
    vector = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape)), params)

    @jax.jit
    def results(params, vector, x):
        _, _, features = neurons.value_and_grad(params, x)
        return neurons.metric_product(features, vector), neuron.gram(features)

    product, gram = results(params, vector, x)
    flat, got = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (vector, product))
    np.testing.assert_allclose(got, metric @ flat, rtol=1e-9, atol=1e-11)
    by_gram = jnp.einsum("gij,gjo->gio", gram, neuron.pack(vector))
    np.testing.assert_allclose(by_gram, neuron.pack(product), rtol=1e-9, atol=1e-11)
