"""The page on torchax: its programs run, cover the networks, train them, and give torch the trained weights."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "torchax.md"
HAS_TORCH, HAS_TRANSFORMERS = (
    all(importlib.util.find_spec(name) for name in names) for names in (("torch", "torchax"), ("transformers",))
)

needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs torch and torchax: pip install '.[torch]'")
needs_transformers = pytest.mark.skipif(
    not (HAS_TORCH and HAS_TRANSFORMERS),
    reason="needs torch, torchax and transformers: pip install '.[torch]' transformers",
)

# Run after a program of the page, in its namespace: the network in torch and in JAX, and dropout under two keys.
CHECKS = """
def check(*batch):
    import json

    inputs, buffers = batch[0], from_torch(network)[2]

    def in_jax(key):
        outputs = apply(params, buffers, jax.random.key(key), inputs)
        return np.asarray(getattr(outputs, "logits", outputs))

    network.eval()
    with torch.no_grad():
        in_torch = network(torch.tensor(np.asarray(inputs)))
    difference = np.abs(getattr(in_torch, "logits", in_torch).numpy() - in_jax(0)).max()
    evaluated = loss_fn(params, buffers, jax.random.key(0), *batch)
    network.train()
    masks = {"repeats": bool((in_jax(0) == in_jax(0)).all()), "differs": bool((in_jax(0) != in_jax(1)).any())}
    facts = {"coverage": neurons.coverage, "losses": losses, "evaluated": float(evaluated), "masks": masks}
    print("FACTS", json.dumps({**facts, "difference": float(difference)}))
"""


@pytest.fixture(scope="module")
def facts():
    """Of each program of the page, what its checks print; one process, since torch and JAX are slow to import."""
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    own, hugging_face = programs
    source = [own, CHECKS, "check(x, y)"]
    if HAS_TRANSFORMERS:
        source += [hugging_face, "check(tokens)"]
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(source)], capture_output=True, text=True, env={**os.environ, **quick}
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line.removeprefix("FACTS ")) for line in run.stdout.splitlines() if line.startswith("FACTS ")]


def assert_trained(facts, coverage, share):
    """It covers that much, its loss falls to this share of the first, and torch has the weights and means."""
    assert facts["coverage"] >= coverage
    assert facts["losses"][-1] < share * facts["losses"][0], facts["losses"]
    assert facts["evaluated"] < share * facts["losses"][0]
    assert facts["difference"] < 1e-4
    assert facts["masks"] == {"repeats": True, "differs": True}


@needs_torch
def test_a_module_is_covered_and_trained_and_its_weights_go_back(facts):
    assert_trained(facts[0], coverage=1.0, share=0.1)


@needs_transformers
def test_a_gpt2_is_covered_and_trained_and_its_weights_go_back(facts):
    assert_trained(facts[1], coverage=0.94, share=0.5)
