"""The cost of a training step on an accelerator, beside Adam's and Muon's: `make bench-accelerator`.

The networks are of the sizes that people train on one, in bfloat16 with float32 parameters, and in float32. Every
optimizer trains the same network from the same weights on one batch. They take turns of ten steps that are enqueued
together, as a training loop enqueues them. LNB's time is shared out by the parts of the program that spend it.

It needs JAX, Optax, Equinox, Flax and nothing else, makes its own data, and stops in time: what does not fit is left
out, and every record is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import gpt
import jax
import jax.numpy as jnp
import numpy as np
import optax
import resnet50
import unet_segmentation
import vision_transformer
from _train import Network
from optax import contrib
from training_step import boosting_step, gradient_step

CYCLE = 10  # steps of a turn, in which every neuron's statistics are renewed once
RESULTS = Path(__file__).parent / "results"
PARTS = ("network", "statistics", "solve", "length", "update", "unknown")
"""Of a step's time: the pass, LNB's three stages by their named scopes, and all else."""


def perceptron(sizes: Sequence[int], batch: int) -> Network:
    """Dense layers with tanh between them, and a softmax."""
    *weights, data = jax.random.split(jax.random.key(0), len(sizes))
    layers = [eqx.nn.Linear(i, o, key=key) for i, o, key in zip(sizes[:-1], sizes[1:], weights, strict=True)]

    def loss_fn(layers: Sequence[eqx.nn.Linear], x: jax.Array, labels: jax.Array) -> jax.Array:
        *hidden, last = layers
        for layer in hidden:
            x = jnp.tanh(jax.vmap(layer)(x))
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(last)(x), labels).mean()

    return Network(loss_fn, layers, (jax.random.uniform(data, (batch, sizes[0])), jnp.arange(batch) % sizes[-1]))


Builder = Callable[[Any], Network]
"""From the type of the products to the network."""

_KEY = partial(jax.random.key, 0)
NETWORKS: Mapping[str, tuple[str, Builder, Builder]] = {
    "gpt-2": (
        "GPT-2 124M, 8 x 1,024 tokens",
        lambda dtype: gpt.build(
            _KEY(), dtype=dtype, vocabulary=50257, length=1024, width=768, heads=12, depth=12, batch=8
        ),
        lambda dtype: gpt.build(_KEY(), dtype=dtype, width=32, depth=1, batch=4, length=16),
    ),
    "vit-s": (
        "ViT-S/16, 128 x 224 pixels",
        lambda _: vision_transformer.build(
            _KEY(), batch=128, size=224, patch_size=16, width=384, heads=6, depth=12, mlp_ratio=4, classes=1000
        ),
        lambda _: vision_transformer.build(_KEY(), batch=4, size=16, width=32, depth=1),
    ),
    "resnet-50": (
        "ResNet-50, 128 x 224 pixels",
        lambda _: resnet50.build(_KEY()),
        lambda _: resnet50.build(_KEY(), batch=4, size=32, width=8, blocks=(1, 1), classes=10),
    ),
    "u-net": (
        "U-Net of 31 M parameters, 16 x 384 pixels",
        lambda _: unet_segmentation.build(_KEY(), batch=16, size=384, width=64, depth=4),
        lambda _: unet_segmentation.build(_KEY(), batch=2, size=16, width=4, depth=1),
    ),
    "mnist-mlp": (
        "784-800-10, 1,000 images",
        lambda _: perceptron((784, 800, 10), 1000),
        lambda _: perceptron((784, 32, 10), 16),
    ),
    "wide-mlp": (
        "3072-2048-2048-10, 256 images",
        lambda _: perceptron((3072, 2048, 2048, 10), 256),
        lambda _: perceptron((96, 64, 64, 10), 16),
    ),
}
"""By name: what it is, and what builds it at full and at tiny size."""

DTYPES = ("bfloat16", "float32")
OPTIMIZERS = ("adam", "lnb", "muon")


@dataclass
class Record:
    """The cost of one optimizer's step on one network.

    Fields:
        milliseconds: of a step, the median over the turns.
        find_seconds: what `lnb.find_neurons` takes.
        trace_seconds: tracing and lowering.
        compile_seconds: XLA's part.
        memory: bytes that the compiled step needs at its peak, by XLA's account.
        state: bytes of the optimizer's state over those of the parameters.
        loss: after the last step.
        parts: of a step's busy time on the device, by `PARTS` [ms].
        kernels: the ten that take longest, (where, name, times in a step, [ms] a step).
        failure: why there is no measurement.
    """

    network: str
    dtype: str
    optimizer: str
    milliseconds: float = float("nan")
    find_seconds: float = 0.0
    trace_seconds: float = float("nan")
    compile_seconds: float = float("nan")
    memory: int = 0
    state: float = float("nan")
    loss: float = float("nan")
    parts: dict[str, float] = field(default_factory=dict)
    kernels: list[tuple[str, str, float, float]] = field(default_factory=list)
    failure: str = ""


def in_bfloat16(network: Network) -> Network:
    """The network with parameters and inputs rounded to bfloat16 on their way in; its state keeps its type."""

    def rounded(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def loss_fn(params: Any, *args: Any) -> Any:
        result = network.loss_fn(rounded(params), *rounded(args))
        if not network.has_aux:
            return result.astype(jnp.float32)
        loss, state = result
        return loss.astype(jnp.float32), jax.tree.map(lambda new, old: new.astype(old.dtype), state, args[0])

    return network._replace(loss_fn=loss_fn)


class Contestant:
    """One optimizer's compiled step and where it stands."""

    def __init__(self, record: Record, network: Network) -> None:
        self.record = record
        self.times: list[float] = []
        start = time.perf_counter()
        if record.optimizer == "lnb":
            step, optimizer = boosting_step(network)
            record.find_seconds = time.perf_counter() - start
        else:
            baseline = {"adam": optax.adam, "muon": contrib.muon}[record.optimizer](1e-4)
            step, optimizer = gradient_step(network, baseline)
        self._args, self._has_aux = network.args, network.has_aux
        self._params = jax.tree.map(jnp.copy, network.params)  # the step gives its buffers away
        self._state = jax.jit(optimizer.init)(self._params)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(self._params, self._state, *self._args)
        traced = time.perf_counter()
        self._compiled = lowered.compile()
        record.trace_seconds, record.compile_seconds = traced - start, time.perf_counter() - traced
        memory = self._compiled.memory_analysis()
        record.memory = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        record.memory -= memory.alias_size_in_bytes
        record.state = _bytes(self._state) / _bytes(self._params)

    def turn(self) -> None:
        """Ten steps."""
        start = time.perf_counter()
        value = None
        for _ in range(CYCLE):
            self._params, self._state, value = self._compiled(self._params, self._state, *self._args)
        jax.block_until_ready(self._params)
        self.times.append((time.perf_counter() - start) / CYCLE * 1e3)
        self.record.milliseconds = float(np.median(self.times))
        self.record.loss = float(jax.tree.leaves(value)[0])

    def profile(self) -> None:
        """A turn under the profiler."""
        places = _places(self._compiled.as_text())
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                self.turn()
            self.times.pop()
            (path,) = Path(folder).rglob("*.xplane.pb")
            data = jax.profiler.ProfileData.from_file(str(path))
        seconds, spent = Counter(dict.fromkeys(PARTS, 0.0)), Counter()
        counts = Counter()
        for plane in data.planes:
            is_device = plane.name.startswith("/device:")
            for line in plane.lines:
                if not (line.name.startswith("Stream") if is_device else line.name.startswith("tf_XLA")):
                    continue
                for event in line.events:
                    name = dict(event.stats).get("hlo_op", event.name if is_device else None)
                    if name is None:  # the CPU's own bookkeeping
                        continue
                    place = places.get(str(name), "")
                    part = _part(place)
                    seconds[part] += event.duration_ns / CYCLE / 1e6
                    spent[part, event.name[:80]] += event.duration_ns / CYCLE / 1e6
                    counts[part, event.name[:80]] += 1
        self.record.parts = dict(seconds)
        self.record.kernels = [
            (part, name, counts[part, name] / CYCLE, spent) for (part, name), spent in spent.most_common(25)
        ]


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)


def _places(program: str) -> dict[str, str]:
    """Where in the traced function each instruction of a compiled program comes from."""
    return dict(_INSTRUCTION.findall(program))


def _part(place: str) -> str:
    """Which of `PARTS` a place belongs to."""
    for part in ("statistics", "solve", "length"):
        if f"lnb_{part}" in place:
            return part
    if "jvp(" in place:
        return "network"
    return "update" if place else "unknown"


def measure(name: str, dtype: str, optimizers: Sequence[str], *, tiny: bool, turns: int) -> list[Record]:
    """The cost of a step of each optimizer on one network. The steps are compiled side by side."""
    _, full, small = NETWORKS[name]
    network = (small if tiny else full)(jnp.dtype(dtype))
    if dtype == "bfloat16":
        network = in_bfloat16(network)
    records = [Record(name, dtype, optimizer) for optimizer in optimizers]
    jax.clear_caches()  # nobody gains by what another network has traced

    def contestant(record: Record) -> Contestant | None:
        try:
            return Contestant(record, network)
        except jax.errors.JaxRuntimeError as error:
            record.failure = str(error).splitlines()[0]
            return None

    with ThreadPoolExecutor(len(records)) as pool:
        contestants = [each for each in pool.map(contestant, records) if each is not None]
    for each in contestants:
        each.turn()  # the first steps renew all statistics
        each.times.clear()
    for _ in range(turns):
        for each in contestants:
            each.turn()
    for each in contestants:
        each.profile()
    return records


def environment() -> dict[str, Any]:
    """What the records depend on besides the code."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}


def page(records: Sequence[Record], where: Mapping[str, Any]) -> str:
    """The records as Markdown."""
    lines = [
        f"Measured on one {where['device']} with JAX {where['jax']}. Ratios are to Adam's step on the same network.",
        "",
        "| network | type | Adam, ms | LNB | Muon | LNB's memory | LNB's state | compilation, LNB / Adam, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_network: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        by_network.setdefault((record.network, record.dtype), {})[record.optimizer] = record

    def ratio(record: Record | None, quantity: Callable[[Record], float], adam: Record) -> str:
        if record is None or adam.failure:
            return "-"
        return "does not fit" if record.failure else f"{quantity(record) / quantity(adam):.2f}"

    for (network, dtype), row in by_network.items():
        adam, boosted = row["adam"], row.get("lnb")
        compilation = "-" if boosted is None else f"{_to_compile(boosted):.0f} / {_to_compile(adam):.0f}"
        lines.append(
            f"| {NETWORKS[network][0]} | {dtype} | {adam.milliseconds:.2f} "
            f"| {ratio(boosted, _milliseconds, adam)} | {ratio(row.get('muon'), _milliseconds, adam)} "
            f"| {ratio(boosted, _memory, adam)} | {'-' if boosted is None else f'{boosted.state:.2f}'} "
            f"| {compilation} |"
        )
    lines += [
        "",
        "Where the device's time goes in a step, in ms. `network` is the pass forwards and backwards, `statistics` the "
        "metric's averages and inverses, `solve` the preconditioning, `length` the step along it, and `update` the "
        "gradient's average, decay and the new parameters. What XLA runs as a CUDA graph does not say what it belongs "
        "to, and is `unknown`.",
        "",
        f"| network | type | optimizer | {' | '.join(PARTS)} |",
        "|---|---|---|" + "---|" * len(PARTS),
    ]
    lines += [
        f"| {NETWORKS[record.network][0]} | {record.dtype} | {record.optimizer} "
        f"| {' | '.join(f'{record.parts[part]:.2f}' for part in PARTS)} |"
        for record in records
        if record.parts
    ]
    return "\n".join([*lines, ""])


def _milliseconds(record: Record) -> float:
    return record.milliseconds


def _memory(record: Record) -> float:
    return float(record.memory)


def _to_compile(record: Record) -> float:
    return record.find_seconds + record.trace_seconds + record.compile_seconds


def main() -> None:
    """Measure in the order of the arguments, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--seconds", type=float, default=480.0, help="after which nothing new is begun")
    parser.add_argument("--turns", type=int, default=5, help="of ten steps of each optimizer")
    parser.add_argument("--tiny", action="store_true", help="at a size for a CPU, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of accelerator.json and accelerator.md")
    settings = parser.parse_args()
    settings.output.mkdir(parents=True, exist_ok=True)
    start, longest = time.perf_counter(), 0.0
    records: list[Record] = []
    for dtype in settings.dtypes:
        for name in settings.networks:
            begun = time.perf_counter()
            if begun - start + longest > settings.seconds:
                print(f"left out, for want of time: {name} in {dtype}")
                continue
            found = measure(name, dtype, settings.optimizers, tiny=settings.tiny, turns=settings.turns)
            longest = max(longest, time.perf_counter() - begun)
            records += found
            for record in found:
                print(
                    f"{name} {dtype} {record.optimizer}: {record.milliseconds:.2f} ms, find {record.find_seconds:.1f} "
                    f"trace {record.trace_seconds:.1f} compile {record.compile_seconds:.1f} s, "
                    f"{record.memory / 2**30:.2f} GiB, loss {record.loss:.3f} {record.failure}",
                    {part: round(spent, 2) for part, spent in record.parts.items()},
                    flush=True,
                )
            kept = {"environment": environment(), "records": [asdict(record) for record in records]}
            (settings.output / "accelerator.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            (settings.output / "accelerator.md").write_text(page(records, environment()), encoding="utf-8")


if __name__ == "__main__":
    main()
