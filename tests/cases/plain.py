"""Plain JAX: every way to write a linear function of the parameters; outputs by hand for the dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cases._case import Case, Layer, normal, one


def conv(spec, strides, padding, **options):
    """A convolution with parameters w and, where it has one, b."""

    def apply(p, x):
        y = lax.conv_general_dilated(x, p["w"], strides, padding, dimension_numbers=spec, **options)
        if "b" not in p:
            return y
        shape = [1] * y.ndim
        shape[spec[2].index("C")] = -1
        return y + p["b"].reshape(shape)

    return apply


def inverse_deviation(x, axes):
    """What a normalisation multiplies by."""
    return lax.rsqrt(x.var(axes, keepdims=True) + 1e-5)


def shifted_norm(params, x, axes):
    """A normalisation that multiplies before it subtracts."""
    mean = x.mean(axes, keepdims=True)
    scale = inverse_deviation(x, axes) * params["s"]
    return x * scale + (-mean * scale + params["t"])  # the mean changes its sign after the scale is there


def difference_of_products(first, second, scale):
    """Both times the same scale."""
    return first * scale - second * scale


def layer_norm(x):
    """Features of mean 0 and variance 1."""
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def add_bias(y, b):
    """The bias, in a function of its own."""
    return y + b


X, T = normal(6, 4), normal(2, 5, 4)
W, B = normal(4, 3, seed=1), normal(3, seed=2)
BUCKETS = np.minimum(np.abs(np.arange(8)[:, None] - np.arange(8)), 3)
MEAN = np.abs(normal(6, 6))
INDEX = np.array([[1, 2, 1], [0, 1, 6]])
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def dense(name, apply, params, args=(X,), sizes=(1, 4, 3), samples=6, **options):
    """A network that is one dense neuron."""
    return one(name, apply, params, args, "dense", sizes, samples, **options)


def convolution(name, apply, params, x, sizes, samples):
    """A network that is one convolution."""
    return one(name, apply, params, (x,), "convolution", sizes, samples)


DENSE = [
    dense("`x @ w + b`", lambda p, x: x @ p["w"] + p["b"], {"w": W, "b": B}),
    dense("`x @ w`", lambda p, x: x @ p["w"], {"w": W}),
    dense("`x @ w.T + b`", lambda p, x: x @ p["w"].T + p["b"], {"w": W.T, "b": B}),
    dense("`x[b, t, i] @ w + b`", lambda p, x: x @ p["w"] + p["b"], {"w": W, "b": B}, (T,), samples=10),
    dense("`vmap(lambda x: w @ x)`", lambda p, x: jax.vmap(lambda x: p["w"] @ x)(x), {"w": W.T}),
    dense("`x @ w.reshape(4, 3) + b`", lambda p, x: x @ p["w"].reshape(4, 3) + p["b"], {"w": W.reshape(2, 6), "b": B}),
    dense(
        "`einsum('btd,dhk->bthk', x, w) + b`",
        lambda p, x: jnp.einsum("btd,dhk->bthk", x, p["w"]) + p["b"],
        {"w": normal(4, 2, 3), "b": normal(2, 3)},
        (T,),
        (1, 4, 6),
        10,
    ),
    dense(
        "`einsum('bthk,hkd->btd', x, w) + b`",
        lambda p, x: jnp.einsum("bthk,hkd->btd", x, p["w"]) + p["b"],
        {"w": normal(2, 3, 4), "b": normal(4)},
        (normal(2, 5, 2, 3),),
        (1, 6, 4),
        10,
    ),
    dense(
        "per head: `einsum('bthi,hio->btho', x, w)`",
        lambda p, x: jnp.einsum("bthi,hio->btho", x, p["w"]),
        {"w": normal(2, 3, 4)},
        (normal(2, 5, 2, 3),),
        (2, 3, 4),
        10,
    ),
    dense(
        "experts: `einsum('ebi,eio->ebo', x, w) + b[:, None]`",
        lambda p, x: jnp.einsum("ebi,eio->ebo", x, p["w"]) + p["b"][:, None],
        {"w": normal(3, 4, 2), "b": normal(3, 2)},
        (normal(3, 5, 4),),
        (3, 4, 2),
        5,
    ),
    dense(
        "tasks: `einsum('bhi,hio->bho', x, w) + b`",
        lambda p, x: jnp.einsum("bhi,hio->bho", x, p["w"]) + p["b"],
        {"w": normal(3, 4, 2), "b": normal(3, 2)},
        (normal(5, 3, 4),),
        (3, 4, 2),
        5,
    ),
    dense(
        "`x @ u + h @ w + b`",
        lambda p, x, h: x @ p["u"] + h @ p["w"] + p["b"],
        {"u": normal(2, 3), "w": W, "b": B},
        (normal(6, 2), X),
        (1, 6, 3),
    ),
    dense(
        "`x + x @ w + b`",
        lambda p, x: x + x @ p["w"] + p["b"],
        {"w": normal(4, 4), "b": normal(4)},
        sizes=(1, 4, 4),
    ),
    dense("`x @ (0.5 * w) + b`", lambda p, x: x @ (0.5 * p["w"]) + p["b"], {"w": W, "b": B}),
    dense("`(x @ w) / 2 + b`", lambda p, x: (x @ p["w"]) / 2 + p["b"], {"w": W, "b": B}),
    dense(
        "`x.astype(bfloat16) @ w.astype(bfloat16)`",
        lambda p, x: (x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)).astype(float),
        {"w": W},
        gram_tolerance=1e-6,
    ),
    dense(
        "`stack([u, v])`",
        lambda p, x: jnp.einsum("bi,kio->bko", x, jnp.stack([p["u"], p["v"]])),
        {"u": normal(4, 2), "v": normal(4, 2, seed=1)},
        sizes=(1, 4, 4),
    ),
    dense(
        "`x @ concatenate([u, v], 1) + concatenate([a, b])`",
        lambda p, x: x @ jnp.concatenate([p["u"], p["v"]], 1) + jnp.concatenate([p["a"], p["b"]]),
        {"a": normal(2), "b": normal(3), "u": normal(4, 2), "v": normal(4, 3)},
        sizes=(1, 4, 5),
    ),
    dense(
        "`add_bias(x @ w, b)`, jitted functions of their own",
        lambda p, x: jax.jit(add_bias)(jax.jit(jnp.dot)(x, p["w"]), p["b"]),
        {"w": W, "b": B},
    ),
    Case(
        "`mean_of_neighbours @ (x @ w) + b`",
        lambda p, x: MEAN @ (x @ p["w"]) + p["b"],
        {"w": W, "b": B},
        (X,),
        (
            Layer(("b",), "identity", (3, 0, 1), 6),
            Layer(("w",), "dense", (1, 4, 3), 6, lambda s, p, x: x @ s["w"]),
        ),
    ),
    one(
        "`(x[:, :, None] * w).sum(1) + b`",
        lambda p, x: (x[:, :, None] * p["w"]).sum(1) + p["b"],
        {"w": W, "b": B},
        (X,),
        "general",
        (1, 15, 1),
        6,
    ),
]

CONVOLUTION = [
    convolution(
        "1-D, strided",
        conv(("NHC", "HIO", "NHC"), (2,), [(1, 2)]),
        {"w": normal(3, 2, 4), "b": normal(4)},
        normal(2, 7, 2),
        (1, 6, 4),
        8,
    ),
    convolution(
        "2-D, channels last",
        conv(NHWC, (1, 2), "SAME"),
        {"w": normal(3, 2, 2, 4), "b": normal(4)},
        normal(2, 5, 6, 2),
        (1, 12, 4),
        30,
    ),
    convolution(
        "2-D, channels first, no bias",
        conv(NCHW, (1, 1), "VALID"),
        {"w": normal(4, 2, 3, 2)},
        normal(2, 2, 5, 6),
        (1, 12, 4),
        30,
    ),
    convolution(
        "2-D, dilated",
        conv(NCHW, (1, 1), [(2, 2), (1, 0)], rhs_dilation=(2, 1)),
        {"w": normal(4, 2, 3, 2), "b": normal(4)},
        normal(1, 2, 5, 6),
        (1, 12, 4),
        30,
    ),
    convolution(
        "2-D, two groups",
        conv(NHWC, (1, 1), "VALID", feature_group_count=2),
        {"w": normal(2, 2, 2, 6), "b": normal(6)},
        normal(2, 4, 4, 4),
        (2, 8, 3),
        18,
    ),
    convolution(
        "2-D, depthwise",
        conv(NCHW, (1, 1), "SAME", feature_group_count=3),
        {"w": normal(3, 1, 3, 3), "b": normal(3)},
        normal(2, 3, 4, 4),
        (3, 9, 1),
        32,
    ),
    convolution(
        "2-D, transposed",
        conv(NHWC, (1, 1), [(1, 1), (1, 1)], lhs_dilation=(2, 2)),
        {"w": normal(2, 2, 2, 3), "b": normal(3)},
        normal(1, 3, 3, 2),
        (1, 8, 3),
        36,
    ),
    convolution(
        "3-D, channels first",
        conv(("NCDHW", "OIDHW", "NCDHW"), (1, 1, 1), "VALID"),
        {"w": normal(2, 2, 2, 1, 2), "b": normal(2)},
        normal(1, 2, 3, 3, 3),
        (1, 8, 2),
        12,
    ),
]

LOOKUP = [
    Case(
        "`(x + table[buckets]) * s`, the buckets constant",
        lambda p, x: (x + p["e"][BUCKETS].transpose(2, 0, 1)) * p["s"],
        {"e": normal(4, 2), "s": normal(8)},
        (normal(3, 2, 8, 8),),
        (
            Layer(
                ("e",),
                "embedding",
                (1, 4, 2),
                192,
                lambda s, p, x: jnp.broadcast_to(s["e"][BUCKETS].transpose(2, 0, 1), (3, 2, 8, 8)),
            ),
            Layer(
                ("s",),
                "scale",
                (8, 1, 1),
                48,
                lambda s, p, x: (x + p["e"][BUCKETS].transpose(2, 0, 1)) * s["s"],
            ),
        ),
    ),
    Case(
        "`x + 0.5 * table[buckets]`, the buckets constant",
        lambda p, x: x + 0.5 * p["e"][BUCKETS],
        {"e": normal(4, 2)},
        (normal(3, 8, 8, 2),),
        (Layer(("e",), "embedding", (1, 4, 2), 192, lambda s, p, x: jnp.broadcast_to(s["e"][BUCKETS], (3, 8, 8, 2))),),
    ),
    dense("`one_hot(i, 7) @ e`", lambda p, i: jax.nn.one_hot(i, 7) @ p["e"], {"e": normal(7, 3)}, (INDEX,), (1, 7, 3)),
    one("`e[i]`", lambda p, i: p["e"][i], {"e": normal(7, 3)}, (INDEX,), "embedding", (1, 7, 3), 6),
    one(
        "`take(e, i, 0)`",
        lambda p, i: jnp.take(p["e"], i, axis=0),
        {"e": normal(7, 3)},
        (INDEX,),
        "embedding",
        (1, 7, 3),
        6,
    ),
    one(
        "`vmap(lambda i: e[i])`",
        lambda p, i: jax.vmap(jax.vmap(lambda i: p["e"][i]))(i),
        {"e": normal(7, 3)},
        (INDEX,),
        "embedding",
        (1, 7, 3),
        6,
    ),
]

SIZES = np.array([3, 0, 5, 2])  # of four experts, one of which has no rows, and two rows have no expert
ROWS, EXPERTS = normal(12, 4), normal(4, 4, 3)
OWNERS = np.repeat(np.arange(4), SIZES)
CHOICE, CHOICES = np.array([2, 0, 2, 1, 2, 0]), np.array([[2, 0], [2, 3], [0, 3], [3, 2], [2, 0], [0, 2]])


def _mean_of_own(y, experts, samples):
    """Outputs y[.., o] with weights that make the mean over `samples` a mean over each expert's own."""
    counts = jnp.zeros(4).at[experts.ravel()].add(1)
    return y * jnp.sqrt(samples / counts[experts])[..., None]


def ragged(name, apply, params, args, owners, samples, layer=None):
    """A network that is one weight for each expert."""

    def output(s, p, *args):
        return _mean_of_own((layer or apply)(s, *args), owners, samples)

    return Case(name, apply, params, args, (Layer(("w",), "ragged", (4, 4, 3), samples, output),))


def _with_bias(p, x, i):
    return jnp.einsum("ni,nio->no", x, p["w"][i]) + p["b"][i]


EXPERT = [
    ragged(
        "`ragged_dot(x, w, group_sizes)`",
        lambda p, x, sizes: lax.ragged_dot(x, p["w"], sizes),
        {"w": EXPERTS},
        (ROWS, SIZES),
        OWNERS,
        3,
        lambda p, x, sizes: jnp.einsum("ni,nio->no", x[:10], p["w"][OWNERS]),
    ),
    ragged(
        "`ragged_dot(x, 0.5 * w.swapaxes(1, 2), group_sizes)`",
        lambda p, x, sizes: lax.ragged_dot(x, 0.5 * p["w"].swapaxes(1, 2), sizes),
        {"w": EXPERTS.swapaxes(1, 2)},
        (ROWS, SIZES),
        OWNERS,
        3,
        lambda p, x, sizes: 0.5 * jnp.einsum("ni,noi->no", x[:10], p["w"][OWNERS]),
    ),
    ragged(
        "`einsum('ni,nio->no', x, w[i])`",
        lambda p, x, i: jnp.einsum("ni,nio->no", x, p["w"][i]),
        {"w": EXPERTS},
        (X, CHOICE),
        CHOICE,
        2,
    ),
    ragged(
        "`vmap(lambda x, i: (0.5 * w[i]) @ x)(x, i)`",
        lambda p, x, i: jax.vmap(lambda x, i: (0.5 * p["w"][i]) @ x)(x, i),
        {"w": EXPERTS.swapaxes(1, 2)},
        (X, CHOICE),
        CHOICE,
        2,
    ),
    ragged(
        "two experts a token: `einsum('ni,nkio->nko', x, w[i])`",
        lambda p, x, i: jnp.einsum("ni,nkio->nko", x, p["w"][i]),
        {"w": EXPERTS},
        (X, CHOICES),
        CHOICES,
        3,
    ),
    ragged(
        "an expert an example: `einsum('nti,nio->nto', x, w[i])`",
        lambda p, x, i: jnp.einsum("nti,nio->nto", x, p["w"][i]),
        {"w": EXPERTS},
        (normal(6, 5, 4), CHOICE),
        np.broadcast_to(CHOICE[:, None], (6, 5)),
        8,
    ),
    Case(
        "`einsum('ni,nio->no', x, w[i]) + b[i]`",
        _with_bias,
        {"w": EXPERTS, "b": normal(4, 3, seed=1)},
        (X, CHOICE),
        (
            Layer(("b",), "embedding", (1, 4, 3), 6, lambda s, p, x, i: s["b"][i]),
            Layer(
                ("w",),
                "ragged",
                (4, 4, 3),
                2,
                lambda s, p, x, i: _mean_of_own(jnp.einsum("ni,nio->no", x, s["w"][i]), i, 2),
            ),
        ),
    ),
    one(
        "experts by a one-hot: `einsum('ne,ni,eio->no', one_hot(i, 4), x, w)`",
        lambda p, x, i: jnp.einsum("ne,ni,eio->no", jax.nn.one_hot(i, 4), x, p["w"]),
        {"w": EXPERTS},
        (X, CHOICE),
        "dense",
        (1, 16, 3),
        6,
    ),
]

SCALE = [
    one(
        "`layer_norm(x) * s + t`",
        lambda p, x: layer_norm(x) * p["s"] + p["t"],
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "`(x - mean) * (rsqrt(var) * s) + t`",
        lambda p, x: (x - x.mean(-1, keepdims=True)) * (lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["s"]) + p["t"],
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "`x * r + (-mean * r + t)`, r = `rsqrt(var) * s`",
        lambda p, x: shifted_norm(p, x, -1),
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "the same over the batch",
        lambda p, x: shifted_norm(p, x, (0, 1)),
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "`(x * r - mean * r) + t`, r = `rsqrt(var) * s`",
        lambda p, x: difference_of_products(x, x.mean(-1, keepdims=True), p["s"] * inverse_deviation(x, -1)) + p["t"],
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "`t - x * s`",
        lambda p, x: p["t"] - x * p["s"],
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "`layer_norm(x) * (1 + s)`",
        lambda p, x: layer_norm(x) * (1 + p["s"]),
        {"s": normal(4)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "`x[n, c, h] * s[:, None] + t[:, None]`",
        lambda p, x: x * p["s"][:, None] + p["t"][:, None],
        {"s": normal(4), "t": normal(4, seed=1)},
        (normal(3, 4, 5),),
        "scale",
        (4, 1, 1),
        15,
    ),
    Case(
        "`x + s * (x @ w + b)`",
        lambda p, x: x + p["s"] * (x @ p["w"] + p["b"]),
        {"s": normal(4), "w": normal(4, 4), "b": normal(4, seed=3)},
        (X,),
        (
            Layer(("b", "w"), "dense", (1, 4, 4), 6, lambda s, p, x: x @ s["w"] + s["b"]),
            Layer(("s",), "scale", (4, 1, 1), 6, lambda s, p, x: s["s"] * (x @ p["w"] + p["b"])),
        ),
    ),
]

IDENTITY = [
    one("`x + positions`", lambda p, x: x + p["p"], {"p": normal(5, 4)}, (T,), "identity", (20, 0, 1), 2),
    one("`x + b`", lambda p, x: x + p["b"], {"b": normal(4)}, (X,), "identity", (4, 0, 1), 6),
    Case(
        "`concatenate([class_token, x])`",
        lambda p, x: jnp.concatenate([jnp.broadcast_to(p["c"], (2, 1, 4)), x], axis=1),
        {"c": normal(4)},
        (T,),
        (Layer(("c",), "identity", (4, 0, 1), 2, lambda s, p, x: jnp.broadcast_to(s["c"], (2, 1, 4))),),
    ),
    one(
        "`where(mask, token, x)`",
        lambda p, x, mask: jnp.where(mask[..., None], p["t"], x),
        {"t": normal(4)},
        (T, normal(2, 5, seed=4) > 0),
        "general",
        (1, 4, 1),
        10,
    ),
]


def _hidden(p, x):
    return jax.nn.gelu(x @ p["w"] + p["b"])


def _attention(p, x):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


def _fused_attention(p, x):
    q, k, v = jnp.split(x @ p["w"] + p["b"], 3, axis=-1)
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


def _by_head(p, x):
    y = (x @ p["w"] + p["b"]).reshape(2, 5, 2, 3, 2)
    q, k, v = (y[:, :, :, part].swapaxes(1, 2) for part in range(3))
    return jax.nn.softmax(q @ k.swapaxes(2, 3)) @ v


def _grouped_query(p, x):
    y = (x @ p["w"]).reshape(2, 5, 2, 4, 2)
    q, k, v = y[..., :2, :], y[..., 2:3, :], y[..., 3:, :]
    return jax.nn.softmax(jnp.einsum("bthqd,bshkd->bhqts", q, k)) @ v.transpose(0, 2, 3, 1, 4)


def _swiglu(p, x):
    y = x @ p["w"] + p["b"]
    return jax.nn.silu(y[:, :3]) * y[:, 3:]


def _rotary(p, x):
    half, other = jnp.split(x @ p["w"], 2, axis=-1)
    angle = jnp.arange(5.0)[:, None]
    turned = [half * jnp.cos(angle) - other * jnp.sin(angle), other * jnp.cos(angle) + half * jnp.sin(angle)]
    return jnp.concatenate(turned, axis=-1)


def _haiku_style(params, x):
    for name in ("mlp/~/linear_0", "mlp/~/linear_1"):
        layer = params[name]
        x = jnp.dot(jax.nn.relu(x) if name.endswith("1") else x, layer["w"])
        x = x + jnp.broadcast_to(layer["b"], x.shape)
    return x


FIRST, SECOND = "['mlp/~/linear_0']", "['mlp/~/linear_1']"

NETWORKS = [
    Case(
        "`gelu(x @ w + b) @ v + c`",
        lambda p, x: _hidden(p, x) @ p["v"] + p["c"],
        {"w": W, "b": B, "v": normal(3, 2), "c": normal(2)},
        (X,),
        (
            Layer(("b", "w"), "dense", (1, 4, 3), 6, lambda s, p, x: x @ s["w"] + s["b"]),
            Layer(("c", "v"), "dense", (1, 3, 2), 6, lambda s, p, x: _hidden(p, x) @ s["v"] + s["c"]),
        ),
    ),
    Case(
        "Haiku-style functions",
        _haiku_style,
        {
            "mlp/~/linear_0": {"w": W, "b": B},
            "mlp/~/linear_1": {"w": normal(3, 2), "b": normal(2)},
        },
        (X,),
        (
            Layer(
                (f"{FIRST}['b']", f"{FIRST}['w']"),
                "dense",
                (1, 4, 3),
                6,
                lambda s, p, x: x @ s[f"{FIRST}['w']"] + s[f"{FIRST}['b']"],
            ),
            Layer((f"{SECOND}['b']", f"{SECOND}['w']"), "dense", (1, 3, 2), 6),
        ),
    ),
    Case(
        "`(x @ u) @ v`",
        lambda p, x: (x @ p["u"]) @ p["v"],
        {"u": normal(4, 3), "v": normal(3, 2)},
        (X,),
        (
            Layer(("u",), "dense", (1, 4, 3), 6, lambda s, p, x: x @ s["u"]),
            Layer(("v",), "dense", (1, 3, 2), 6, lambda s, p, x: (x @ p["u"]) @ s["v"]),
        ),
    ),
    Case(
        "attention: `x @ q, x @ k, x @ v`",
        _attention,
        {name: normal(4, 4, seed=k) for k, name in enumerate("qkv")},
        (T,),
        tuple(Layer((k,), "dense", (1, 4, 4), 10, lambda s, p, x: x @ next(iter(s.values()))) for k in "kqv"),
    ),
    Case(
        "fused attention: `split(x @ qkv + b, 3)`",
        _fused_attention,
        {"w": normal(4, 6), "b": normal(6)},
        (T,),
        (Layer(("b", "w"), "dense", (1, 4, 6), 10, lambda s, p, x: x @ s["w"] + s["b"], cut=(2, 2, 2)),),
    ),
    Case(
        "fused attention: `(x @ qkv + b).reshape(.., heads, 3, d)`, indexed",
        _by_head,
        {"w": normal(4, 12), "b": normal(12)},
        (T,),
        (Layer(("b", "w"), "dense", (1, 4, 12), 10, lambda s, p, x: x @ s["w"] + s["b"], cut=(4, 4, 4)),),
    ),
    Case(
        "fused attention: two queries for each key and value, sliced",
        _grouped_query,
        {"w": normal(4, 16)},
        (T,),
        (Layer(("w",), "dense", (1, 4, 16), 10, lambda s, p, x: x @ s["w"], cut=(8, 4, 4)),),
    ),
    Case(
        "gate and up: `silu(y[:, :3]) * y[:, 3:]` of `y = x @ w + b`",
        _swiglu,
        {"w": normal(4, 6), "b": normal(6)},
        (X,),
        (Layer(("b", "w"), "dense", (1, 4, 6), 6, lambda s, p, x: x @ s["w"] + s["b"], cut=(3, 3)),),
    ),
    Case(
        "`x @ q`, its halves turned by a rotary embedding",
        _rotary,
        {"w": normal(4, 6)},
        (T,),
        (Layer(("w",), "dense", (1, 4, 6), 10, lambda s, p, x: x @ s["w"]),),
    ),
    Case(
        "`tanh(x @ w[:, :3]) * (x @ w[:, 3:])`",
        lambda p, x: jnp.tanh(x @ p["w"][:, :3]) * (x @ p["w"][:, 3:]),
        {"w": normal(4, 6)},
        (X,),
        (Layer(("w",), "dense", (1, 4, 6), 6, lambda s, p, x: x @ s["w"], parts=2),),
    ),
    Case(
        "`loss + 1e-3 * sum(w**2)`",
        lambda p, x: x @ p["w"] + p["b"],
        {"w": W, "b": B},
        (X,),
        (Layer(("b", "w"), "dense", (1, 4, 3), 6),),
        loss=lambda p, x: (
            jnp.mean(jnp.sin(x @ p["w"] + p["b"]) ** 2) + 1e-3 * sum(jnp.sum(leaf**2) for leaf in p.values())
        ),
    ),
]


def _field(p, x):
    """A network of one input and one output, with its features before and after the nonlinearity."""
    return (jnp.sin(x @ p["w"] + p["b"]) @ p["v"] + p["c"])[0]


def _equation_forward(p, x):
    """Value and derivative at every point, the derivative forward."""
    value, slope = jax.vmap(lambda x: jax.jvp(lambda x: _field(p, x), (x,), (jnp.ones(1),)))(x)
    return jnp.sin(value) * slope


def _equation_backward(p, x):
    """Value and derivative at every point, the derivative backward."""
    return jax.vmap(lambda x: jnp.sin(_field(p, x)) * jax.grad(_field, 1)(p, x)[0])(x)


def _slopes(p, x):
    """The derivative of the nonlinearity at every point."""
    return jnp.cos(x @ p["w"] + p["b"])


def _together(*outputs):
    return jnp.concatenate([output.ravel() for output in outputs])


FIELD = {"w": normal(1, 3), "b": normal(3), "v": normal(3, 1), "c": normal(1)}
POINTS = normal(6, 1)

SHARED = [
    Case(
        "tied autoencoder: `tanh(x @ w + b) @ w.T`",
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T,
        {"w": W, "b": B},
        (X,),
        (
            Layer(
                ("b", "w"),
                "tied",
                (1, 4, 3),
                12,
                lambda s, p, x: _together(x @ s["w"] + s["b"], jnp.tanh(x @ p["w"] + p["b"]) @ s["w"].T),
            ),
        ),
    ),
    Case(
        "siamese towers: `tanh(x @ w + b) - tanh(y @ w + b)`",
        lambda p, x, y: jnp.tanh(x @ p["w"] + p["b"])[:2] - jnp.tanh(y @ p["w"] + p["b"]),
        {"w": W, "b": B},
        (X, normal(2, 4, seed=9)),
        (Layer(("b", "w"), "dense", (1, 4, 3), 8, lambda s, p, x, y: jnp.concatenate([x, y]) @ s["w"] + s["b"]),),
    ),
    Case(
        "tied embedding and head: `tanh(e[i]) @ e.T`",
        lambda p, i: jnp.tanh(p["e"][i]) @ p["e"].T,
        {"e": normal(7, 3)},
        (INDEX,),
        (
            Layer(
                ("e",),
                "tied",
                (1, 7, 3),
                12,
                lambda s, p, i: _together(s["e"][i], jnp.tanh(p["e"][i]) @ s["e"].T),
            ),
        ),
    ),
    Case(
        "PINN, value and forward derivative",
        _equation_forward,
        FIELD,
        (POINTS,),
        (
            Layer(
                ("b", "w"),
                "dense",
                (1, 1, 3),
                12,
                lambda s, p, x: _together(x @ s["w"] + s["b"], jnp.ones_like(x) @ s["w"]),
            ),
            Layer(
                ("c", "v"),
                "dense",
                (1, 3, 1),
                12,
                lambda s, p, x: _together(
                    jnp.sin(x @ p["w"] + p["b"]) @ s["v"] + s["c"], (_slopes(p, x) * p["w"]) @ s["v"]
                ),
            ),
        ),
    ),
    Case(
        "PINN, value and backward derivative",
        _equation_backward,
        FIELD,
        (POINTS,),
        (
            Layer(
                ("b", "w"),
                "tied",
                (1, 1, 3),
                12,
                lambda s, p, x: _together(x @ s["w"] + s["b"], (_slopes(p, x) * p["v"][:, 0]) @ s["w"].T),
            ),
            Layer(
                ("c", "v"),
                "tied",
                (1, 3, 1),
                12,
                lambda s, p, x: _together(jnp.sin(x @ p["w"] + p["b"]) @ s["v"] + s["c"], jnp.ones_like(x) @ s["v"].T),
            ),
        ),
    ),
]
