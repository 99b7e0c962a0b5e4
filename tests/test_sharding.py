"""A small decoder on eight devices: whatever is split, it takes the steps of one device, and keeps its layout.

In float64, since sums in another order round otherwise.
"""

import importlib
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import normal
from communication import collectives
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from lists import solvers
from state_size import Model
from state_size import size as state_size

import lnb

VOCABULARY, WIDTH, LENGTH, BATCH, LAYERS = 32, 16, 8, 16, 2


def loss_fn(params, tokens, gather=lambda leaf: leaf, rows=None):
    """A causal decoder with its layers in a scan.

    With explicit axes JAX wants to be told where a weight is gathered, and how rows and sums are split.
    """
    params = jax.tree.map(gather, params)
    x = params["table"].at[tokens[:, :-1]].get(out_sharding=rows)
    mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))

    def block(x, layer):
        q, k, v = jnp.split((x * layer["scale"]) @ layer["qkv"], 3, axis=2)
        weights = jax.nn.softmax(jnp.where(mask, jnp.einsum("bqd,bkd->bqk", q, k), -1e9))
        x = x + jnp.einsum("bqk,bkd->bqd", weights, v) @ layer["out"]
        h = jnp.tanh(x @ layer["up"] + layer["bias"])
        return x + jnp.einsum("btf,fd->btd", h, layer["down"], out_sharding=rows), None

    x, _ = lax.scan(block, x, params["layers"])
    labels = jax.nn.one_hot(tokens[:, 1:], VOCABULARY, dtype=x.dtype)
    return optax.softmax_cross_entropy(x @ params["head"], labels).mean()


PARAMS = {
    "table": normal(VOCABULARY, WIDTH) / 2,
    "layers": {
        "scale": 1 + normal(LAYERS, WIDTH) / 8,
        "qkv": normal(LAYERS, WIDTH, 3 * WIDTH) / 4,
        "out": normal(LAYERS, WIDTH, WIDTH) / 4,
        "up": normal(LAYERS, WIDTH, 2 * WIDTH, seed=1) / 4,
        "bias": normal(LAYERS, 2 * WIDTH) / 4,
        "down": normal(LAYERS, 2 * WIDTH, WIDTH) / 6,
    },
    "head": normal(WIDTH, VOCABULARY) / 4,
}
WHOLE = jax.tree.map(lambda leaf: P(), PARAMS)
FIRST = jax.tree.map(lambda leaf: P("data") if len(leaf) % 8 == 0 else P(None, "data"), PARAMS)
MLP = {**WHOLE["layers"], "up": P(None, None, "model"), "bias": P(None, "model"), "down": P(None, "model")}
ALL_TENSOR = {
    "table": P(None, "model"),
    "layers": {**MLP, "qkv": P(None, None, "model"), "out": P(None, "model")},
    "head": P(None, "model"),
}
STACKED = {**WHOLE, "layers": jax.tree.map(lambda leaf: P("model"), PARAMS["layers"])}
LAYOUTS = {
    "FSDP": ((8,), FIRST, AxisType.Auto),
    "FSDP, explicit": ((8,), FIRST, AxisType.Explicit),
    "tensor parallel": ((2, 4), ALL_TENSOR, AxisType.Auto),
    "tensor parallel, explicit": ((2, 4), {**WHOLE, "layers": MLP}, AxisType.Explicit),
    "stacked layers": ((4, 2), STACKED, AxisType.Auto),
}
"""By name, a mesh's shape, how the parameters are split, and of which kind the axes are."""


def batches(count):
    random = np.random.default_rng(0)
    return [random.integers(0, VOCABULARY, (BATCH, LENGTH + 1)) for _ in range(count)]


class Layout:
    """A mesh, and the parameters on it."""

    def __init__(self, shape, specs, kind=AxisType.Auto):
        names = ("data", "model")[: len(shape)]
        self.mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
        self.shardings = jax.tree.map(self.sharding, specs, is_leaf=lambda leaf: isinstance(leaf, P))
        self.params = jax.device_put(jax.tree.map(jnp.asarray, PARAMS), self.shardings)
        self.options = {}
        if kind == AxisType.Explicit:
            self.options["rows"] = self.sharding(P("data"))
            if specs is not LAYOUTS["tensor parallel, explicit"][1]:
                self.options["gather"] = lambda leaf: jax.sharding.reshard(leaf, self.sharding(P()))

    def sharding(self, spec):
        return NamedSharding(self.mesh, spec)

    def batch(self, tokens):
        return jax.device_put(jnp.asarray(tokens), self.sharding(P("data")))


class OneDevice:
    def __init__(self):
        self.params, self.options = jax.tree.map(jnp.asarray, PARAMS), {}

    def batch(self, tokens):
        return jnp.asarray(tokens)


def training(layout, **settings):
    """A compiled step, and what it starts from."""
    loss = partial(loss_fn, **layout.options)
    tokens = layout.batch(batches(1)[0])
    neurons = lnb.find_neurons(loss, layout.params, tokens, strict=True)
    optimizer = lnb.lnb(neurons, 0.05, **settings)

    def advance(params, state, tokens):
        value, grads, features = neurons.value_and_grad(params, tokens)
        updates, state = optimizer.update(grads, state, params, features=features, value=value)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(layout.params)
    layouts = jax.tree.map(lambda leaf: leaf.sharding, (layout.params, state))
    return jax.jit(advance, out_shardings=layouts).lower(layout.params, state, tokens).compile(), state


def train(layout, count=20, **settings):
    """The parameters and the state after some steps, whose layouts must not change."""
    step, state = training(layout, **settings)
    params, start = layout.params, (layout.params, state)
    for tokens in batches(count):
        params, state = jax.block_until_ready(step(params, state, layout.batch(tokens)))
    assert int(state.skipped) == 0
    for after, before in zip(jax.tree.leaves((params, state)), jax.tree.leaves(start), strict=True):
        assert after.sharding.is_equivalent_to(before.sharding, before.ndim), (before.shape, before.sharding)
    return params


def assert_equal(got, expected):
    for (path, leaf), wanted in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max(), err_msg=str(path))


ALL = solvers(Auto={"rank": 4}, Cholesky={"update_period": 3}, LowRank={"rank": 4})


@cache
def one_device(solver):
    """What one device ends with; of tests with 64-bit numbers."""
    return train(OneDevice(), solver=solver)


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize(
    "solver", [ALL["Auto"], *(pytest.param(ALL[name], marks=pytest.mark.slow) for name in ALL if name != "Auto")]
)
def test_split_parameters_take_the_steps_of_one_device_with_every_solver(solver):
    assert_equal(train(Layout(*LAYOUTS["FSDP"]), solver=solver), one_device(solver))


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "FSDP"])
def test_every_layout_takes_the_steps_of_one_device(name):
    assert_equal(train(Layout(*LAYOUTS[name]), solver=ALL["Auto"]), one_device(ALL["Auto"]))


# The layout of the state


def test_no_device_has_a_whole_array_of_a_split_neuron():
    layout = Layout(*LAYOUTS["FSDP"])
    neurons = lnb.find_neurons(loss_fn, layout.params, layout.batch(batches(1)[0]))
    for solver in ALL.values():
        state = lnb.lnb(neurons, 0.05, solver=solver).init(layout.params)
        for leaf in jax.tree.leaves((state.average, state.statistics, state.warm_starts)):
            is_split = any(size % 8 == 0 and size for size in leaf.shape)
            assert leaf.is_fully_replicated != is_split, (leaf.shape, leaf.sharding)
            assert leaf.addressable_shards[0].data.size == leaf.size // (8 if is_split else 1)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["FSDP", "tensor parallel", "stacked layers"])
def test_the_layout_of_a_state_is_known_before_there_is_one(name, kind):
    shape, specs, _ = LAYOUTS[name]
    layout = Layout(shape, specs, kind)
    neurons = lnb.find_neurons(loss_fn, jax.tree.map(jnp.asarray, PARAMS), batches(1)[0])
    optimizer = optax.chain(optax.trace(0.9), lnb.lnb(neurons, optax.constant_schedule(0.05), solver=ALL["Auto"]))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), layout.params)
    expected = optimizer.init(layout.params)
    for given in (layout.params, shapes):
        found = lnb.state_sharding(optimizer, given)
        for sharding, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert sharding.is_equivalent_to(leaf.sharding, leaf.ndim), (leaf.shape, sharding, leaf.sharding)
    made = jax.jit(optimizer.init, out_shardings=found)(layout.params)
    for leaf, wanted in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_parameters_without_a_mesh_are_refused():
    neurons = lnb.find_neurons(loss_fn, PARAMS, batches(1)[0])
    with pytest.raises(ValueError, match="`params` has no array with a `NamedSharding`"):
        lnb.state_sharding(lnb.lnb(neurons, 0.05), PARAMS)


def test_a_device_s_part_of_a_decoder_s_state_is_no_more_than_adam_s():
    model = Model(layers=2, width=128, vocabulary=512, length=64, heads=4)
    params = model.params()
    neurons = lnb.find_neurons(model.loss, params, jax.ShapeDtypeStruct((8, 65), jnp.int32))
    adam, boosting = optax.adam(0.1), lnb.lnb(neurons, 0.05)
    assert state_size(boosting, params, 8) <= 1.05 * state_size(adam, params) / 8
    assert state_size(boosting, params, 8) <= 1.05 * state_size(boosting, params) / 8


# What a step communicates


def perceptron_loss(params, x):
    for weight, bias in params:
        x = jnp.tanh(x @ weight + bias)
    return jnp.mean(jnp.square(x - 1))


def perceptron(shape):
    """A perceptron on a mesh: its weights are split along their longer side, its biases are not."""
    names = ("data", "model")[: len(shape)]
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))
    params = []
    for i, o in [(64, 96), (96, 160), (160, 48)]:
        weight, bias = jnp.asarray(normal(i, o) / i**0.5, jnp.float32), jnp.zeros(o, jnp.float32)
        spec = P(None, names[-1]) if o > i else P(names[-1])
        params.append(
            (jax.device_put(weight, NamedSharding(mesh, spec)), jax.device_put(bias, NamedSharding(mesh, P())))
        )
    x = jax.device_put(jnp.asarray(normal(1024, 64), jnp.float32), NamedSharding(mesh, P("data")))
    return params, x


def compiled(optimizer, neurons, params, x):
    """A compiled step, a state, and how they are laid out."""

    def step(params, state, x):
        if neurons is None:
            grads, extra = jax.grad(perceptron_loss)(params, x), {}
        else:
            _, grads, features = neurons.value_and_grad(params, x)
            extra = {"features": features}
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    layouts = jax.tree.map(lambda leaf: leaf.sharding, params), lnb.state_sharding(optimizer, params)
    state = jax.device_put(optimizer.init(params), layouts[1])
    return jax.jit(step, out_shardings=layouts).lower(params, state, x).compile(), state, layouts


def gathered(program, params):
    """How often a compiled step gathers each weight whole, by its number of elements."""
    found = Counter(size for each in collectives(program) if each.kind == "all-gather" for size in each.sizes)
    return {weight.size: found[weight.size] for weight, _ in params}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="programs are read as the CPU's compiler writes them")
@pytest.mark.usefixtures("standard_promotion")
def test_a_step_gathers_no_weight_that_adam_s_does_not():
    params, x = perceptron((8,))
    neurons = lnb.find_neurons(perceptron_loss, params, x)
    adam, *_ = compiled(optax.adam(0.01), None, params, x)
    boosting, *_ = compiled(lnb.lnb(neurons, 0.02), neurons, params, x)
    assert set(gathered(adam.as_text(), params).values()) == {1}
    assert gathered(boosting.as_text(), params) == gathered(adam.as_text(), params)


@pytest.mark.usefixtures("standard_promotion", "quick_compilation")
def test_a_checkpoint_of_one_mesh_goes_on_on_another(tmp_path):
    params, x = perceptron((8,))
    neurons = lnb.find_neurons(perceptron_loss, params, x)
    optimizer = lnb.lnb(neurons, 0.02)
    step, state, _ = compiled(optimizer, neurons, params, x)
    saved = step(params, state, x)
    others, y = perceptron((4, 2))
    again, _, layouts = compiled(optimizer, neurons, others, y)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved, layouts
    )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "step", target)
    for leaf, before, sharding in zip(*map(jax.tree.leaves, (restored, saved, layouts)), strict=True):
        np.testing.assert_array_equal(leaf, before)
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    for got, wanted in zip(*map(jax.tree.leaves, (again(*restored, y), step(*saved, x))), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


# Several processes

WORKER = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

process, count, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 8 // count)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, process)
import lnb

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, P("data"))
random = np.random.default_rng(0)
put = lambda array: jax.make_array_from_callback(array.shape, split, lambda index: array[index])
params = {"w": put(random.normal(size=(16, 24)) / 4), "v": put(random.normal(size=(24, 8)) / 4)}
x = put(random.normal(size=(64, 16)))
loss_fn = lambda params, x: jnp.mean(jnp.square(jnp.tanh(x @ params["w"]) @ params["v"] - 1))
neurons = lnb.find_neurons(loss_fn, params, x)
optimizer = lnb.lnb(neurons, 0.05)
state = optimizer.init(params)

@jax.jit
def step(params, state, x):
    loss, grads, features = neurons.value_and_grad(params, x)
    updates, state = optimizer.update(grads, state, params, features=features)
    return optax.apply_updates(params, updates), state, loss

for _ in range(5):
    params, state, loss = step(params, state, x)
assert all(leaf.sharding.is_equivalent_to(split, leaf.ndim) for leaf in jax.tree.leaves((params, state.average)))
print("loss", repr(float(loss)))
"""


def test_two_processes_take_the_steps_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}

    def start(process, count):
        command = [sys.executable, "-c", WORKER, str(process), str(count), address]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    workers = [start(0, 2), start(1, 2)]
    results = [worker.communicate(timeout=240) for worker in workers]
    assert not any(worker.returncode for worker in workers), results
    alone = start(0, 1)
    (expected, errors) = alone.communicate(timeout=240)
    assert not alone.returncode, errors
    losses = [float(out.split("loss ")[1]) for out, _ in results]
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], float(expected.split("loss ")[1]), rtol=1e-12)


@pytest.mark.usefixtures("standard_promotion", "quick_compilation")
@pytest.mark.parametrize("name", ["data_parallel", "fsdp", "tensor_parallel"])
def test_an_example_trains_on_all_devices(name, capsys):
    last = importlib.import_module(name).main(steps=40)
    losses = re.findall(r"^step +\d+  loss (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert last < float(losses[0]) / 4
