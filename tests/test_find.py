"""What is found in frameworks and control flow, and why the rest is not covered."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, Layer, normal
from flax import nnx
from oracle import dense_metric

import lnb


def check_against(case):
    """M v, value and gradient of a case whose layers are written by hand."""
    params, args = case.inputs()
    neurons = lnb.find_neurons(case.loss_fn, params, *args)
    value, grads, features = jax.jit(neurons.value_and_grad)(params, *args)
    expected, expected_grads = jax.value_and_grad(case.loss_fn)(params, *args)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)
    vectors = {key: jnp.asarray(normal(*p.shape, seed=8)) for key, p in params.items()}
    got = neurons.metric_product(features, vectors)
    for layer in case.layers:
        chosen = {key: params[key] for key in layer.keys}
        metric = dense_metric(lambda sub, o=layer.output: o(sub, params, *args), chosen, layer.samples)
        flat = np.concatenate([np.ravel(vectors[key]) for key in sorted(layer.keys)])
        actual = np.concatenate([np.ravel(got[key]) for key in sorted(layer.keys)])
        np.testing.assert_allclose(actual, metric @ flat, rtol=1e-9, atol=1e-12)
        (neuron,) = (n for n in neurons if {f"['{key}']" for key in layer.keys} == set(n.paths))
        assert (neuron.kind, neuron.groups, neuron.inputs, neuron.outputs) == (layer.kind, *layer.sizes)
        assert neuron.samples == layer.samples
    return neurons


X = normal(6, 3)
SQUARE = {"w": normal(3, 3), "b": normal(3)}
STACK = {"w": normal(4, 3, 3), "b": normal(4, 3)}


def through_layers(params, h):
    """The inputs of a stack of tanh layers, layer by layer."""
    inputs = []
    for weight, bias in zip(params["w"], params["b"], strict=True):
        inputs.append(h)
        h = jnp.tanh(h @ weight + bias)
    return jnp.stack(inputs)


def over_layers(body):
    def apply(params, x):
        return jax.lax.scan(lambda h, layer: (body(h, layer), None), x, (params["w"], params["b"]))[0]

    return apply


def dense(h, layer):
    return jnp.tanh(h @ layer[0] + layer[1])


def layers_output(sub, params, x):
    return jnp.einsum("lni,lio->lno", through_layers(params, x), sub["w"]) + sub["b"][:, None]


def time_states(params, x):
    h, inputs = jnp.zeros(3), []
    for step in x:
        inputs.append(h)
        h = jnp.tanh(h @ params["w"] + step + params["b"])
    return jnp.stack(inputs)


@jax.custom_jvp
def halved(w, x):
    return jnp.tanh(x @ w)


@halved.defjvp
def _halved_jvp(primals, tangents):
    return halved(*primals), 0.5 * jax.jvp(lambda w, x: jnp.tanh(x @ w), primals, tangents)[1]


@jax.custom_vjp
def doubled(w, x):
    return jnp.tanh(x @ w)


doubled.defvjp(
    lambda w, x: (doubled(w, x), (w, x)),
    lambda saved, g: jax.vjp(lambda w, x: jnp.tanh(x @ w), *saved)[1](2 * g),
)

REGIONS = [
    Case(
        "scan over layers",
        over_layers(dense),
        STACK,
        (X,),
        (Layer(("b", "w"), "dense", (4, 3, 3), 6, layers_output),),
    ),
    Case(
        "scan over remat layers",
        over_layers(lambda h, layer: jax.checkpoint(dense)(h, layer)),
        STACK,
        (X,),
        (Layer(("b", "w"), "dense", (4, 3, 3), 6, layers_output),),
    ),
    Case(
        "scan over time",
        lambda p, x: jax.lax.scan(lambda h, s: (jnp.tanh(h @ p["w"] + s + p["b"]),) * 2, jnp.zeros(3), x)[1],
        SQUARE,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: time_states(p, x) @ s["w"] + s["b"]),),
    ),
    Case(
        "map",
        lambda p, x: jax.lax.map(lambda row: jnp.tanh(row @ p["w"] + p["b"]), x),
        SQUARE,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"] + s["b"]),),
    ),
    Case(
        "loop of fixed length",
        lambda p, x: jax.lax.fori_loop(0, 2, lambda _, h: dense(h, (p["w"], p["b"])), x),
        SQUARE,
        (X,),
        (
            Layer(
                ("b", "w"),
                "dense",
                (1, 3, 3),
                12,
                lambda s, p, x: jnp.concatenate([x, dense(x, (p["w"], p["b"]))]) @ s["w"] + s["b"],
            ),
        ),
    ),
    Case(
        "remat",
        lambda p, x: jax.checkpoint(dense, policy=jax.checkpoint_policies.dots_saveable)(x, (p["w"], p["b"])),
        SQUARE,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"] + s["b"]),),
    ),
    Case(
        "branch that runs",
        lambda p, x: jax.lax.cond(x[0, 0] < 9, lambda h: dense(h, (p["w"], p["b"])), lambda h: h, x),
        SQUARE,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"] + s["b"]),),
    ),
    Case(
        "branch that is passed over",
        lambda p, x: jax.lax.cond(x[0, 0] > 9, lambda h: dense(h, (p["w"], p["b"])), lambda h: h, x),
        SQUARE,
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 3), 6, lambda s, p, x: 0 * (x @ s["w"] + s["b"])),),
    ),
    Case(
        "custom forward derivative",
        lambda p, x: halved(p["w"], x) @ p["v"],
        {"w": SQUARE["w"], "v": normal(3, 2)},
        (X,),
        (
            Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"]),
            Layer(("v",), "dense", (1, 3, 2), 6, lambda s, p, x: jnp.tanh(x @ p["w"]) @ s["v"]),
        ),
    ),
    Case(
        "custom backward derivative",
        lambda p, x: doubled(p["w"], x) @ p["v"],
        {"w": SQUARE["w"], "v": normal(3, 2)},
        (X,),
        (
            Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"]),
            Layer(("v",), "dense", (1, 3, 2), 6, lambda s, p, x: jnp.tanh(x @ p["w"]) @ s["v"]),
        ),
    ),
    Case(
        "ensemble",
        lambda p, x: jax.vmap(lambda w, b: jnp.tanh(x @ w + b))(p["w"], p["b"]),
        {"w": normal(4, 3, 2), "b": normal(4, 2)},
        (X,),
        (Layer(("b", "w"), "dense", (1, 3, 8), 6, lambda s, p, x: jnp.einsum("ni,eio->neo", x, s["w"]) + s["b"]),),
    ),
    Case(
        "layers chosen by a loop's counter",
        lambda p, x: jax.lax.fori_loop(0, 4, lambda k, h: jnp.tanh(h @ p["w"][k]), x),
        {"w": STACK["w"]},
        (X,),
        (
            Layer(
                ("w",),
                "general",
                (1, 36, 1),
                24,
                lambda s, p, x: jnp.einsum(
                    "lni,lio->lno", through_layers({"w": p["w"], "b": jnp.zeros((4, 3))}, x), s["w"]
                ),
            ),
        ),
    ),
]


@pytest.mark.parametrize("case", REGIONS, ids=lambda case: case.name)
def test_control_flow(x64, case):
    assert check_against(case).coverage == 1.0


UNCOVERED = {
    "weight norm": (lambda p, x: x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)), "gv", "another parameter"),
    "exponential scale": (lambda p, x: x * jnp.exp(p["g"]), "g", "nonlinearly through `exp`"),
    "merged product": (lambda p, x: x @ (p["v"] @ p["w"]), "vw", "another parameter by `dot_general`"),
    "spectral norm": (lambda p, x: x @ (p["v"] / jnp.sum(x[0] @ p["v"])), "v", "function of itself"),
    "stopped": (lambda p, x: x @ jax.lax.stop_gradient(p["v"]) + x @ p["w"], "v", "stop_gradient"),
    "while": (
        lambda p, x: (
            x @ p["w"] + jax.lax.stop_gradient(jax.lax.while_loop(lambda h: h.sum() < 0, lambda h: h @ p["v"], x))
        ),
        "v",
        "inside a `while`",
    ),
    "unused": (lambda p, x: x @ p["w"], "v", "never reaches the loss"),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_is_not_covered_is_listed_with_its_reason(name):
    apply, keys, reason = UNCOVERED[name]
    every = {"g": jnp.ones(3), "v": jnp.asarray(normal(3, 3), jnp.float32), "w": jnp.ones((3, 3))}
    used = {"weight norm": "gv", "exponential scale": "g", "merged product": "vw", "spectral norm": "v"}
    params = {key: every[key] for key in used.get(name, "vw")}
    x = jnp.asarray(X, jnp.float32)

    def loss_fn(params, x):
        return jnp.mean(jnp.sin(apply(params, x)) ** 2)

    neurons = lnb.find_neurons(loss_fn, params, x)
    listed = dict(neurons.uncovered)
    assert set(listed) == {f"['{key}']" for key in keys}
    assert all(reason in why for why in listed.values())
    assert neurons.coverage < 1
    for path, why in listed.items():
        assert f"{path}: {why}" in str(neurons)
    with pytest.raises(ValueError, match="strict") as error:
        lnb.find_neurons(loss_fn, params, x, strict=True)
    assert all(path in str(error.value) and why in str(error.value) for path, why in listed.items())
    # They are trained with the identity metric.
    transform = lnb.scale_by_lnb(neurons, min_norm=1e-9)
    _, grads, features = neurons.value_and_grad(params, x)
    updates, _ = transform.update(grads, transform.init(params), params, features=features)
    for key in keys:
        ratio = (
            np.asarray(updates[key])[np.asarray(grads[key]) != 0] / np.asarray(grads[key])[np.asarray(grads[key]) != 0]
        )
        np.testing.assert_allclose(ratio, ratio[:1].repeat(ratio.size), rtol=1e-4)


def kinds(neurons):
    return sorted((n.kind, n.groups, n.inputs, n.outputs, n.has_bias) for n in neurons)


def test_equinox_networks():
    keys = jax.random.split(jax.random.key(0), 8)
    model = {
        "conv": eqx.nn.Conv2d(2, 4, 3, key=keys[0]),
        "norm": eqx.nn.GroupNorm(2, 4),
        "attention": eqx.nn.MultiheadAttention(2, 4, key=keys[1]),
        "dropout": eqx.nn.Dropout(0.5),
        "mlp": eqx.nn.MLP(4, 3, 5, 1, key=keys[2]),
        "rms": eqx.nn.RMSNorm(4),
    }
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(model, image, key):
        h = jax.nn.relu(model["norm"](model["conv"](image)))
        h = h.reshape(4, -1).T
        h = h + model["attention"](h, h, h)
        h = eqx.filter_jit(jax.vmap(model["rms"]))(h)
        h = model["dropout"](h, key=key).mean(0)
        return eqx.filter_checkpoint(model["mlp"])(h)

    def loss_fn(params, images, keys):
        return jnp.mean(jax.vmap(lambda i, k: apply(eqx.combine(params, static), i, k))(images, keys) ** 2)

    neurons = lnb.find_neurons(loss_fn, params, jnp.ones((3, 2, 5, 5)), keys[:3], strict=True)
    assert kinds(neurons) == sorted(
        [("convolution", 1, 18, 4, True), ("scale", 4, 1, 1, True), ("scale", 4, 1, 1, True)]
        + [("dense", 1, 4, 4, False)] * 4
        + [("dense", 1, 4, 5, True), ("dense", 1, 5, 3, True)]
    )
    query, key, value = (n for n in neurons if any(f"{p}_proj" in n.name for p in ("query", "key", "value")))
    assert len({neurons.sharing[n.index] for n in (query, key, value)}) == 1


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(4, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((4, 4)))
        self.head = nnx.LinearGeneral(4, (2, 3), rngs=rngs)

    def __call__(self, image, tokens):
        h = nnx.gelu(self.norm(self.conv(image))).reshape(image.shape[0], -1, 4)
        h = h + self.embed(tokens) + self.positions
        return self.head(self.attention(self.layer_norm(h)))


def test_nnx_network_with_state(standard_promotion):
    graph, params, rest = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params, rest, image, tokens):
        model = nnx.merge(graph, params, rest, copy=True)
        value = jnp.mean(model(image, tokens) ** 2)
        return value, nnx.state(model, nnx.BatchStat)

    arguments = rest, jnp.ones((3, 2, 2, 2)), jnp.zeros((3, 4), int)
    neurons = lnb.find_neurons(loss_fn, params, *arguments, has_aux=True, strict=True)
    assert kinds(neurons) == sorted(
        [("convolution", 1, 18, 4, True), ("scale", 4, 1, 1, True), ("scale", 4, 1, 1, True)]
        + [("dense", 1, 4, 4, True)] * 4
        + [("dense", 1, 4, 6, True), ("embedding", 1, 7, 4, False), ("identity", 16, 0, 1, False)]
    )
    (value, state), grads, _ = neurons.value_and_grad(params, *arguments)
    (expected, _), expected_grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(expected_grads)
    assert len(jax.tree.leaves(state)) == 2


def test_the_step_holds_no_second_pass():
    """The products in a compiled step with `Diagonal` are Adam's: those of one forward and one backward pass."""
    params = [(jnp.ones((5, 6)), jnp.ones(6)), (jnp.ones((6, 7)), jnp.ones(7)), (jnp.ones((7, 2)), jnp.ones(2))]

    def loss_fn(params, x):
        for weight, bias in params:
            x = jnp.tanh(x @ weight + bias)
        return jnp.mean(x**2)

    x = jnp.ones((8, 5))
    neurons = lnb.find_neurons(loss_fn, params, x)
    optimizer = lnb.lnb(neurons, 0.1, solver=lnb.Diagonal())

    def step(params, state, x):
        _, grads, features = neurons.value_and_grad(params, x)
        return optimizer.update(grads, state, params, features=features)

    def products(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments)).count("preferred_element_type")

    plain = products(jax.value_and_grad(loss_fn), params, x)
    # The whitening's own are small: a mean with the weights for each neuron, and for each parameter its part of z.
    own = len(neurons) + len(jax.tree.leaves(params))
    assert products(step, params, optimizer.init(params), x) == plain + own
