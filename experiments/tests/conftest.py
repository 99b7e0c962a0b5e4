"""What every test runs under: figures without a screen, strict dtype promotion."""

from collections.abc import Iterator

import jax
import matplotlib
import pytest

matplotlib.use("Agg")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64() -> Iterator[None]:
    """Run one test with 64-bit numbers, and leave the next one with JAX's default."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """Run one test with JAX's usual dtype promotion, which Optax's own optimizers count on."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def quick_compilation() -> Iterator[None]:
    """Compile quickly rather than to quick code, for tests that do nearly nothing but compile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
