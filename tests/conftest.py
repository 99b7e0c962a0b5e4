"""What every test runs under: strict dtype promotion, seeded hypothesis, float64 on request."""

from collections.abc import Iterator

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 8)  # for maps over devices, and meshes

# Compilation makes a first example slow, so there is no deadline; a failure must come back on
# every run, so examples are derived from the test itself.
hypothesis.settings.register_profile("lnb", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=500, print_blob=True)  # `make fuzz`
hypothesis.settings.load_profile("lnb")


@pytest.fixture
def x64() -> Iterator[None]:
    """Run one test with 64-bit numbers, and leave the next one with JAX's default."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
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
