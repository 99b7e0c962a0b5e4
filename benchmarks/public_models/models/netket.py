"""Wave functions of NetKet, fitted to the logarithm of a known one, up to its norm and its global phase.

NetKet turns 64-bit numbers on; its networks have them here too, and read spins as the integers that its samplers give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models.trial import Trial, model

KEY = jax.random.key(0)
SITES = 10


def _log_amplitudes(x: np.ndarray) -> np.ndarray:
    """Correlations of a periodic chain that decay with distance, and a phase."""
    pairs = [np.sum(x * np.roll(x, d, -1), -1) for d in (1, 2, 3)]
    return -0.3 * pairs[0] + 0.1 * pairs[1] - 0.05 * pairs[2] + 0.2j * pairs[0]


def _spins(step: int) -> Sequence[np.ndarray]:
    """(configurations [n, sites] of -1 and 1, log psi [n])."""
    x = 2 * np.random.default_rng((1, step)).integers(0, 2, (128, SITES)) - 1
    return x.astype(np.int8), _log_amplitudes(x)


def _fit(network: Any, batch: Callable[[int], Sequence[np.ndarray]] = _spins) -> Trial:
    """The mean square of the difference of log psi, whose mean is the norm's and the phase's."""
    variables = network.init(KEY, jnp.asarray(batch(0)[0][:1]))
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss_fn(params: Any, x: Any, target: Any) -> Any:
        log_psi = network.apply({"params": params, **rest}, x)
        difference = log_psi - (target if jnp.iscomplexobj(log_psi) else target.real)
        difference = difference - difference.mean()
        return 0.5 * jnp.mean(jnp.square(difference.real) + jnp.square(difference.imag))

    return Trial(loss_fn, variables["params"], batch)


def _hilbert() -> Any:
    import netket as nk

    return nk.hilbert.Spin(0.5, SITES)


@model("NetKet", "RBM", "netket")
def rbm() -> Trial:
    import netket as nk

    return _fit(nk.models.RBM(alpha=2))


@model("NetKet", "RBM, complex", "netket")
def complex_rbm() -> Trial:
    import netket as nk

    return _fit(nk.models.RBM(alpha=2, param_dtype=complex))


@model("NetKet", "RBMModPhase", "netket")
def rbm_mod_phase() -> Trial:
    import netket as nk

    return _fit(nk.models.RBMModPhase(alpha=2))


@model("NetKet", "RBMMultiVal", "netket")
def rbm_multi_val() -> Trial:
    import netket as nk

    def occupations(step: int) -> Sequence[np.ndarray]:
        x = np.random.default_rng((1, step)).integers(0, 3, (128, SITES))
        return x.astype(np.int8), _log_amplitudes(x - 1)

    return _fit(nk.models.RBMMultiVal(n_classes=3, alpha=1), occupations)


@model("NetKet", "RBMSymm", "netket")
def rbm_symm() -> Trial:
    import netket as nk

    return _fit(nk.models.RBMSymm(nk.graph.Chain(SITES).translation_group(), alpha=4))


@model("NetKet", "RBMSymm, complex", "netket")
def complex_rbm_symm() -> Trial:
    import netket as nk

    return _fit(nk.models.RBMSymm(nk.graph.Chain(SITES).translation_group(), alpha=4, param_dtype=complex))


@model("NetKet", "GCNN by Fourier transforms", "netket")
def gcnn() -> Trial:
    import netket as nk

    return _fit(nk.models.GCNN(nk.graph.Chain(SITES), mode="fft", layers=2, features=4))


@model("NetKet", "GCNN by irreducible representations", "netket")
def irreducible_gcnn() -> Trial:
    import netket as nk

    return _fit(nk.models.GCNN(nk.graph.Chain(SITES), mode="irreps", layers=2, features=4))


@model("NetKet", "GCNN, complex", "netket")
def complex_gcnn() -> Trial:
    import netket as nk

    return _fit(nk.models.GCNN(nk.graph.Chain(SITES), mode="fft", layers=2, features=4, param_dtype=complex))


@model("NetKet", "ARNNDense", "netket")
def arnn_dense() -> Trial:
    import netket as nk

    return _fit(nk.models.ARNNDense(_hilbert(), layers=3, features=8))


@model("NetKet", "ARNNConv1D", "netket")
def arnn_conv() -> Trial:
    import netket as nk

    return _fit(nk.models.ARNNConv1D(_hilbert(), layers=3, features=8, kernel_size=4))


@model("NetKet", "ARNNConv1D, complex", "netket")
def complex_arnn_conv() -> Trial:
    import netket as nk

    return _fit(nk.models.ARNNConv1D(_hilbert(), layers=3, features=8, kernel_size=4, param_dtype=complex))


@model("NetKet", "FastARNNDense", "netket")
def fast_arnn_dense() -> Trial:
    import netket as nk

    return _fit(nk.models.FastARNNDense(_hilbert(), layers=3, features=8))


@model("NetKet", "Jastrow", "netket")
def jastrow() -> Trial:
    import netket as nk

    return _fit(nk.models.Jastrow(param_dtype=float))


@model("NetKet", "Jastrow, complex", "netket")
def complex_jastrow() -> Trial:
    import netket as nk

    return _fit(nk.models.Jastrow())


@model("NetKet", "MLP", "netket")
def mlp() -> Trial:
    import netket as nk

    return _fit(nk.models.MLP(hidden_dims_alpha=(4, 2)))


@model("NetKet", "MLP, complex", "netket")
def complex_mlp() -> Trial:
    import netket as nk

    network = nk.models.MLP(hidden_dims=(32,), param_dtype=complex, hidden_activations=nk.nn.activation.log_cosh)
    return _fit(network)


@model("NetKet", "DeepSetMLP", "netket")
def deep_set() -> Trial:
    import netket as nk

    def particles(step: int) -> Sequence[np.ndarray]:
        x = np.random.default_rng((1, step)).normal(size=(128, 4, 2))
        return x, np.sum(np.exp(-np.square(x).sum(-1)), -1) - 0.1 * np.square(x.sum(1)).sum(-1)

    return _fit(nk.models.DeepSetMLP(features_phi=(32, 32), features_rho=(32,)), particles)


@model("NetKet", "Gaussian", "netket")
def gaussian() -> Trial:
    import netket as nk

    def positions(step: int) -> Sequence[np.ndarray]:
        x = np.random.default_rng((1, step)).normal(size=(128, 6))
        return x, -0.5 * np.square(x).sum(-1) - 0.25 * np.square(np.diff(x)).sum(-1)

    return _fit(nk.models.Gaussian(), positions)


@model("NetKet", "matrix product state", "netket")
def matrix_product_state() -> Trial:
    import netket as nk

    return _fit(nk.models.tensor_networks.MPSPeriodic(_hilbert(), bond_dim=4, param_dtype=complex))
