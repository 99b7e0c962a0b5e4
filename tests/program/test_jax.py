"""The facts about JAX's programs that the library relies on, a test each: the next JAX breaks one of these by name."""

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import primitives
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lnb
from lnb._features._layout import Transpose
from lnb._finding.rules import _layouts
from lnb._program import _jax, read_program, trace, unlisted

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jnp.ones((3, 4))


def program_of(function, *arguments):
    return trace(function, *arguments)[0]


def only(function, *arguments):
    """The one equation of a function, and its program."""
    program = program_of(function, *arguments)
    (equation,) = program.equations
    return equation, program


def scan_parts(equation, program):
    inputs, outputs = ([program.avals[v] for v in values] for values in (equation.inputs, equation.outputs))
    return _jax.scan_of(equation.parameters, inputs, outputs)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: jax.jit(jax.jit(f)), lambda f: jax.jit(f, inline=False)])
def test_a_jitted_call_is_entered(wrap):
    program = program_of(lambda x: wrap(lambda y: jnp.sin(y) * 2)(x), X)
    assert [e.primitive for e in program.equations] == [primitives.sin_p, primitives.mul_p]


def test_a_jitted_call_may_close_over_arrays():
    table = jnp.asarray(normal(4))
    program = program_of(lambda x: jax.jit(lambda y: y + table)(x), X)
    (outputs, _) = program.evaluate([X])
    np.testing.assert_array_equal(outputs[0], X + table)


def test_a_program_on_references_is_no_call():
    def run(x):
        total = jax.new_ref(jnp.zeros(()))
        total[...] += x
        return total[...]

    closed = jax.make_jaxpr(lambda x: jax.jit(run)(x))(1.0)
    np.testing.assert_allclose(read_program(closed).evaluate([jnp.asarray(1.0)])[0][0], 1.0)


def test_jaxprs_are_found_by_type_open_or_closed():
    closed = jax.make_jaxpr(jnp.sin)(1.0)
    for parameter in (closed, closed.jaxpr, (closed, 1), [closed.jaxpr]):
        (found,) = _jax.jaxprs_of({"any name": parameter, "other": 3})
        assert isinstance(found, jex.ClosedJaxpr)
        assert found.eqns[0].primitive is primitives.sin_p


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_operands_of_a_scan_are_constants_carry_and_scanned_in_that_order(length, reverse):
    one, two = jnp.ones((length, 3)), jnp.full(3, 2.0)  # a constant may look like a scanned array

    def loop(one, two, start, xs):
        def body(h, x):
            return (h[0] + x @ one.T @ one + two, h[1] + 1), (h[0], x * 2)

        return lax.scan(body, (start, 0), xs, reverse=reverse, unroll=1)

    equation, program = only(loop, one, two, jnp.full(3, 3.0), jnp.full((length, 3), 4.0))
    assert equation.primitive is primitives.scan_p
    parts = scan_parts(equation, program)
    assert (parts.consts, parts.carry, parts.length, parts.reverse) == (2, 2, length, reverse)
    shapes = [aval.shape for aval in parts.body.in_avals]
    assert shapes == [(length, 3), (3,), (3,), (), (3,)]
    assert [aval.shape for aval in parts.body.out_avals] == [(3,), (), (3,), (3,)]


def test_a_scan_without_scanned_arrays_has_constants_and_carry_alone():
    equation, program = only(lambda w, x: lax.scan(lambda h, _: (h @ w, None), x, None, length=2)[0], jnp.eye(4), X)
    parts = scan_parts(equation, program)
    assert (parts.consts, parts.carry) == (1, 1)


def test_the_operands_of_a_while_are_the_conditions_constants_the_bodys_and_the_carry_in_that_order():
    def loop(limit, w, b, x):
        return lax.while_loop(lambda c: c[1] < limit, lambda c: (jnp.tanh(c[0] @ w + b), c[1] + 1.0), (x, 0.0))[0]

    arguments = 2.0, jnp.eye(4), jnp.ones(4), X
    equation, program = only(loop, *arguments)
    assert equation.primitive is primitives.while_p
    inputs, outputs = ([program.avals[v] for v in values] for values in (equation.inputs, equation.outputs))
    parts = _jax.while_of(equation.parameters, inputs, outputs)
    assert (parts.condition_consts, parts.body_consts) == (1, 2)
    assert [aval.shape for aval in parts.condition.in_avals] == [(), (3, 4), ()]
    assert [aval.shape for aval in parts.body.in_avals] == [(4, 4), (4,), (3, 4), ()]
    assert [aval.shape for aval in parts.body.out_avals] == [(3, 4), ()]
    condition, body = read_program(parts.condition), read_program(parts.body)
    state = [X, jnp.asarray(0.0)]
    while condition.evaluate([arguments[0], *state])[0][0]:
        state = body.evaluate([*arguments[1:3], *state])[0]
    np.testing.assert_allclose(state[0], loop(*arguments), rtol=1e-6)
    with pytest.raises(_jax.NotUnderstoodError, match="its operands are not"):
        _jax.while_of(equation.parameters, inputs[1:], outputs)


def test_a_weight_that_a_while_carries_along_is_a_constant_of_its_body():
    def loop(w, x):
        return lax.while_loop(lambda c: c[2] < 3, lambda c: (c[0], jnp.tanh(c[1] @ c[0]), c[2] + 1), (w, x, 0))[1]

    equation, program = only(loop, jnp.eye(4), X)
    inputs, outputs = ([program.avals[v] for v in values] for values in (equation.inputs, equation.outputs))
    assert _jax.while_of(equation.parameters, inputs, outputs).body_consts == 1


def test_the_first_input_of_a_cond_chooses_among_its_branches():
    def branches(chosen, x):
        return lax.switch(chosen, [jnp.sin, jnp.cos, jnp.tanh], x)

    program = program_of(branches, 1, X)
    equation = program.equations[-1]
    assert equation.primitive is primitives.cond_p
    assert [b.eqns[0].primitive for b in equation.parameters["branches"]] == [
        primitives.sin_p,
        primitives.cos_p,
        primitives.tanh_p,
    ]
    np.testing.assert_array_equal(equation.bind([jnp.int32(1), X])[0], jnp.cos(X))


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable])
def test_a_checkpoint_holds_one_program_on_its_own_inputs(policy):
    equation, _ = only(lambda w, x: jax.checkpoint(lambda w, x: jnp.sin(x @ w), policy=policy)(w, x), jnp.eye(4), X)
    assert equation.primitive is unlisted().checkpoint
    (held,) = equation.jaxprs
    assert [aval.shape for aval in held.in_avals] == [(4, 4), (3, 4)]
    assert equation.parameters["policy"] is policy
    assert equation.parameters["prevent_cse"] is True


def test_a_checkpoint_name_gives_its_input():
    equation, _ = only(lambda x: checkpoint_name(x, "name"), X)
    assert equation.primitive is unlisted().name
    np.testing.assert_array_equal(equation.bind([X])[0], X)


def test_a_split_has_its_axis_and_sizes():
    equation, _ = only(lambda x: jnp.split(x, [1, 2], axis=1), X)
    assert equation.primitive is unlisted().split
    assert (equation.parameters["axis"], equation.parameters["sizes"]) == (1, (1, 1, 2))
    for got, wanted in zip(equation.bind([X]), jnp.split(X, [1, 2], axis=1), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_an_unstack_has_its_axis_and_is_a_split_before_jax_had_it():
    equations = program_of(lambda x: jnp.unstack(x, axis=1), X).equations
    assert equations[0].primitive is (unlisted().unstack or unlisted().split)
    assert equations[0].parameters["axis"] == 1
    assert len(equations[0].outputs) == 4
    assert len(equations) == (1 if unlisted().unstack else 5)


@jax.custom_jvp
def halved(x):
    return x * 1


halved.defjvp(lambda primals, tangents: (halved(*primals), 0.5 * tangents[0]))


@jax.custom_vjp
def doubled(x):
    return x * 1


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (2 * g,))


@pytest.mark.parametrize(
    ("function", "primitive", "slope"),
    [(halved, primitives.custom_jvp_call_p, 0.5), (doubled, primitives.custom_vjp_call_p, 2.0)],
    ids=["custom_jvp", "custom_vjp"],
)
def test_a_custom_derivative_survives_being_bound_again(function, primitive, slope):
    equation, program = only(lambda x: function(x), 1.0)
    assert equation.primitive is primitive
    assert len(equation.jaxprs) == 1
    assert jax.grad(lambda x: program.evaluate([x])[0][0])(1.0) == slope


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_map_over_devices_says_its_mesh_specs_and_axes(check_vma):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P("data"), "check_vma": check_vma}
    equation, _ = only(lambda w, x: jax.shard_map(lambda w, x: x @ w, **specs)(w, x), jnp.eye(4), jnp.ones((6, 4)))
    assert equation.primitive is unlisted().shard_map
    parts = _jax.shard_map_of(equation.parameters)
    assert parts.in_specs == (P(), P("data"))
    assert parts.out_specs == (P("data"),)
    assert (parts.axes, parts.check_vma, dict(parts.mesh.shape)) == (("data",), check_vma, {"data": 2})
    assert [aval.shape for aval in parts.body.in_avals] == [(4, 4), (3, 4)]
    assert (unlisted().vary in {eqn.primitive for eqn in parts.body.eqns}) == check_vma


LAYOUTS = [
    lambda x: x.reshape(4, 3),
    lambda x: x.T,
    lambda x: x[:, :1].squeeze(1),
    lambda x: jnp.broadcast_to(x, (2, 3, 4)),
    lambda x: lax.slice(x, (0, 1), (3, 3), (2, 1)),
    lambda x: jnp.flip(x, 1),
    lambda x: x.astype(jnp.bfloat16),
    lambda x: lax.reduce_precision(x, 5, 10),
    lambda x: jnp.copy(x),
]


@pytest.mark.parametrize("function", LAYOUTS)
def test_a_layout_moves_labels_as_it_moves_numbers(function):
    labels = np.arange(12).reshape(3, 4)
    expected = np.asarray(function(jnp.asarray(labels, jnp.float32)), np.float32)
    program = program_of(function, X)
    for equation in program.equations:
        assert _layouts.is_layout(equation)
        labels = _layouts.rearranged(equation, program.avals[equation.outputs[0]].shape, labels)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("function", "shapes", "names"),
    [
        (jnp.dot, [(3, 4), (4, 2)], {"dimension_numbers"}),
        (
            lambda x, w: lax.conv(x, w, (1, 1), "SAME"),
            [(2, 3, 5, 5), (4, 3, 3, 3)],
            {
                "dimension_numbers",
                "window_strides",
                "padding",
                "lhs_dilation",
                "rhs_dilation",
                "feature_group_count",
                "batch_group_count",
            },
        ),
        (lambda x: lax.dynamic_slice(x, (0, 0), (1, 4)), [(3, 4)], {"slice_sizes"}),
        (lambda x: x.sum(1), [(3, 4)], {"axes"}),
    ],
    ids=["dot_general", "conv_general_dilated", "dynamic_slice", "reduce_sum"],
)
def test_an_operation_has_the_parameters_that_are_read(function, shapes, names):
    program = program_of(function, *(jnp.ones(shape) for shape in shapes))
    assert names <= program.equations[-1].parameters.keys()


def ragged_dot(x, w, sizes):
    return lax.ragged_dot(x, w, sizes)


def test_a_ragged_product_parts_the_rows_of_its_left_operand_among_the_matrices_of_its_right():
    x, w, sizes = normal(6, 2), normal(3, 2, 4), np.array([3, 0, 2])
    equation, program = only(ragged_dot, *(jnp.asarray(a, jnp.float32) for a in (x, w)), jnp.asarray(sizes))
    assert equation.primitive is unlisted().ragged_dot
    assert equation.inputs == program.inputs
    assert _jax.ragged_dot_of(equation.parameters) == _jax.RaggedDot(0, 0, ((1,), (1,)))
    owners = np.repeat(np.arange(3), sizes)
    expected = np.concatenate([np.einsum("ni,nio->no", x[:5], w[owners]), np.zeros((1, 4))])  # no matrix for the last
    np.testing.assert_allclose(program.evaluate([x.astype(np.float32), w, sizes])[0][0], expected, rtol=1e-5)


def test_a_ragged_product_of_another_mode_is_not_understood_as_one():
    """Its rows are contracted, as for the gradient of the matrices."""
    numbers = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    equation, _ = only(lambda x, y, s: lax.ragged_dot_general(x, y, s, numbers), X, X, jnp.asarray([1, 2]))
    assert equation.primitive is unlisted().ragged_dot
    assert _jax.ragged_dot_of(equation.parameters) is None


def test_a_lookup_has_the_parameters_that_are_read():
    program = program_of(lambda table, i: jnp.take(table, i, axis=0), X, jnp.asarray([0, 2]))
    (equation,) = (e for e in program.equations if e.primitive is primitives.gather_p)
    numbers = equation.parameters["dimension_numbers"]
    assert numbers.start_index_map == (0,)
    assert numbers.offset_dims == (1,)
    assert numbers.operand_batching_dims == ()
    assert equation.parameters["slice_sizes"] == (1, 4)
    assert isinstance(equation.parameters["mode"], lax.GatherScatterMode)


def over_devices(function, *, check_vma):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=check_vma))


def test_the_mapped_axes_in_force_are_known():
    found = []

    def note(x):
        found.append(_jax.axes_in_scope())
        return x

    x = jnp.ones((2, 3))
    jax.vmap(note)(x)
    jax.vmap(jax.vmap(note, axis_name="inner"), axis_name="outer")(x)
    jax.pmap(note, axis_name="d")(x)
    for check_vma in (True, False):
        over_devices(note, check_vma=check_vma)(x)
    assert [set(axes) for axes in found] == [set(), {"inner", "outer"}, {"d"}, {"d"}, {"d"}]
    assert _jax.axes_in_scope() == ()


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_type_tells_along_which_axes_an_array_may_differ_if_the_map_checks_types(check_vma):
    found = []

    def note(x):
        found[:] = map(_jax.varying_axes, (x, lax.psum(x, "d"), jnp.ones(3), lax.axis_index("d")))
        return x

    over_devices(note, check_vma=check_vma)(jnp.ones((2, 3)))
    varying = frozenset({"d"} if check_vma else ())
    assert found == [varying, frozenset(), frozenset(), varying]
    assert _jax.varying_axes(X) == frozenset()


def test_a_weight_that_is_laid_out_anew_is_the_same_weight():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    split, whole = (jax.sharding.NamedSharding(mesh, spec) for spec in (P("d"), P()))
    weight, x = jax.device_put(jnp.ones((4, 2)), split), jax.device_put(X, whole)
    (neuron,) = lnb.find_neurons(lambda w, x: jnp.sum(x @ jax.sharding.reshard(w, whole)), weight, x)
    assert (neuron.kind, neuron.inputs, neuron.outputs) == ("dense", 4, 2)


def test_operations_that_jax_does_not_list_are_found_whatever_is_in_force():
    """The examples are traced apart from the caller's mesh, trace and settings."""
    expected = unlisted()
    assert {name for name, found in vars(expected).items() if found is None} <= {"unstack"}  # which JAX 0.8 has not
    unlisted.cache_clear()
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        found = []
        jax.make_jaxpr(lambda x: [found.append(unlisted()), x][1])(1.0)
    assert found == [expected]


def test_an_example_that_jax_refuses_is_none(monkeypatch):
    """Such an operation is then met like any other that is not known."""
    unlisted.cache_clear()
    jax.clear_caches()  # of the example that was traced before
    monkeypatch.setattr(jax, "shard_map", None)
    try:
        assert (unlisted().shard_map, unlisted().vary) == (None, None)
        assert unlisted().checkpoint is not None
    finally:
        unlisted.cache_clear()


PARAMS = {"w": jnp.asarray(normal(4, 4)), "v": jnp.asarray(normal(4, 2))}


def check_listed(loss_fn, reason):
    """`w` is listed with the reason, `v` is covered, and a step is taken."""
    with pytest.warns(UserWarning, match="The neurons cover 33.3% of the parameters"):
        neurons = lnb.find_neurons(loss_fn, PARAMS, X)
    ((path, why),) = neurons.uncovered
    assert path == "['w']"
    assert reason in why
    assert [neuron.paths for neuron in neurons] == [("['v']",)]
    value, grads, features = neurons.value_and_grad(PARAMS, X)
    expected = jax.value_and_grad(loss_fn)(PARAMS, X)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(grads["w"], expected[1]["w"], rtol=1e-6)
    optimizer = lnb.lnb(neurons, 0.1)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, features=features)
    assert np.all(np.isfinite(updates["w"]))


def test_a_layout_with_unknown_parameters_lists_what_goes_in(monkeypatch):
    monkeypatch.setitem(_layouts._LAYOUTS, primitives.transpose_p, lambda of, shape, p: Transpose(of, p["order"]))
    check_listed(
        lambda p, x: jnp.sum(jnp.tanh(x @ p["w"].T + x @ p["w"]) @ p["v"]),
        "used by a `transpose` of an unknown form: it has no `order`, but permutation",
    )


def test_outputs_in_a_layout_with_unknown_parameters_are_read_together(monkeypatch):
    monkeypatch.setitem(_layouts._LAYOUTS, primitives.transpose_p, lambda of, shape, p: Transpose(of, p["order"]))

    def loss_fn(p, x):
        y = x @ p["w"]
        turned = y[:, 2:].T
        return jnp.sum(jnp.tanh(y[:, :2])) + jnp.sum(jnp.tanh(turned[0]) * turned[1])

    (neuron,) = lnb.find_neurons(loss_fn, {"w": PARAMS["w"]}, X)
    assert neuron.parts == (2, 2)


def test_a_loop_of_unknown_operands_lists_what_goes_in(monkeypatch):
    def raises(*_):
        raise _jax.NotUnderstoodError("its operands are others")

    monkeypatch.setattr("lnb._finding._regions.scan_of", raises)

    def loss_fn(p, x):
        x, _ = lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x @ p["w"], None, length=2)
        return jnp.sum(jnp.tanh(x) @ p["v"])

    check_listed(loss_fn, "used by a `scan` of an unknown form: its operands are others")


def test_a_program_that_cannot_be_entered_lists_what_goes_in():
    """The parameter's other use is no neuron either: its metric would leave this one out."""

    def loss_fn(p, x):
        def times(b):
            return b @ (p["w"] @ p["w"].T + jnp.eye(4))

        solved = lax.custom_linear_solve(
            times, x @ p["w"], lambda f, b: jax.scipy.sparse.linalg.cg(f, b)[0], None, True
        )
        return jnp.sum(jnp.tanh(solved) @ p["v"])

    check_listed(loss_fn, "used inside a `custom_linear_solve`, whose steps cannot be recorded")
