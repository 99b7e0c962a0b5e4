"""What is shared between neurons, and what finding them costs the step."""

import jax
import jax.numpy as jnp
import pytest
from cases import CASES

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("attention: `x @ q, x @ k, x @ v`", ("['q']", "['k']", "['v']")),
        ("`eqx.nn.MultiheadAttention`", (".query_proj.weight", ".key_proj.weight", ".value_proj.weight")),
        ("`nnx.MultiHeadAttention`", tuple(f"['{name}']['kernel'].value" for name in ("query", "key", "value"))),
    ],
)
def test_neurons_with_the_same_features_share_them(x64, name, alike):
    case = next(case for case in CASES if case.name == name)
    with jax.numpy_dtype_promotion(case.promotion):
        params, args = case.inputs()
        neurons = lnb.find_neurons(case.loss_fn, params, *args)
    sharing = {path: neurons.sharing[neuron.index] for neuron in neurons for path in neuron.paths}
    assert len({sharing[path] for path in alike}) == 1
    assert len(set(neurons.sharing)) == 1 + len(neurons) - len(alike)


def test_the_step_holds_no_second_pass():
    """The products in a compiled step with `Diagonal` are Adam's: those of one forward and one backward pass."""
    params = [(jnp.ones((5, 6)), jnp.ones(6)), (jnp.ones((6, 7)), jnp.ones(7)), (jnp.ones((7, 2)), jnp.ones(2))]

    def loss_fn(params, x):
        for weight, bias in params:
            x = jnp.tanh(x @ weight + bias)
        return jnp.mean(x**2)

    x = jnp.ones((8, 5))
    neurons = lnb.find_neurons(loss_fn, params, x)
    optimizer = lnb.lnb(neurons, 0.1, solver=lnb.Diagonal(), step=lnb.Norm())

    def step(params, state, x):
        _, grads, features = neurons.value_and_grad(params, x)
        return optimizer.update(grads, state, params, features=features)

    def products(function, *arguments):
        return str(jax.make_jaxpr(function)(*arguments)).count("preferred_element_type")

    plain = products(jax.value_and_grad(loss_fn), params, x)
    own = len(neurons)  # of the whitened mean with the gradient, for the bias
    assert products(step, params, optimizer.init(params), x) == plain + own
