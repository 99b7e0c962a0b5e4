"""The cost of a training step with each optimizer: `make bench`.

Every optimizer trains the same network, from the same weights, on one batch, in one process. They take turns of ten
steps, so that what else the machine does falls on all alike, and a step meets the caches as its optimizer left them.
Solvers renew their statistics every ten steps: a step's time is the mean over its place in those ten of the median over
the rounds, and the worst step is the slowest place.

K-FAC needs an older JAX than the others, and has tables of its own: `make bench-kfac`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from _train import Network
from kernels import distinct_kernels
from networks import LOGITS, NETWORKS, Logits
from optax import contrib
from rich.console import Console
from rich.table import Table
from training_step import Step, boosting_step, gradient_step

import lnb
from lnb_experiments import KFAC, Classifier, describe_environment

CYCLE = 10
RESULTS = Path(__file__).parent / "results"

LNB: dict[str, dict[str, Any]] = {
    "lnb auto": {},
    "lnb auto, norm": {"step": lnb.Norm(), "nesterov": False},
    "lnb Diagonal": {"solver": lnb.Diagonal(ridge_unit="mean variance", sample_fraction=0.25)},
    "lnb LowRank(16)": {"solver": lnb.LowRank(16, ridge_unit="mean variance", sample_fraction=0.25)},
    "lnb Cholesky": {"solver": lnb.Cholesky(ridge_unit="mean variance", sample_fraction=0.25)},
    "lnb CG": {"solver": lnb.CG(), "step": lnb.Norm(), "nesterov": False},  # the paper's
}
OPTIMIZERS = ("adam", "muon", *LNB)


@dataclass(frozen=True)
class Target:
    """The upper bound of a ratio to Adam's cost.

    Fields:
        quantity: of a cost.
        bounds: by optimizer, for the networks that have one.
    """

    title: str
    quantity: Callable[[Cost], float]
    bounds: Mapping[str, Mapping[str, float]]


def _bounds(perceptron: float, transformers: float, convolutions: float) -> Mapping[str, float]:
    names = {"mnist-mlp": perceptron, "vit": transformers, "gpt": transformers}
    return {**names, "unet": convolutions, "resnet": convolutions}


_ALL = ("lnb Diagonal", "lnb LowRank(16)", "lnb auto", "lnb Cholesky")
TARGETS = (
    Target(
        "time of a step",
        lambda cost: cost.milliseconds,
        dict(
            zip(_ALL, (_bounds(1.05, 1.05, 1.1), *2 * [_bounds(1.2, 1.15, 1.2)], _bounds(1.8, 1.4, 1.6)), strict=True)
        ),
    ),
    Target("peak memory", lambda cost: cost.memory, dict.fromkeys(_ALL[:2], dict.fromkeys(NETWORKS, 1.2))),
    Target("compilation", lambda cost: cost.compile_seconds, dict.fromkeys(_ALL, dict.fromkeys(NETWORKS, 2.0))),
)


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement."""

    networks: tuple[str, ...] = tuple(NETWORKS)
    """Names of networks."""
    optimizers: tuple[str, ...] = OPTIMIZERS
    """Names of optimizers, "kfac" among them; the first is what the others are compared with."""
    rounds: int = 5
    """Rounds of ten steps of each optimizer."""
    compilations: int = 3
    """How often each optimizer's step is compiled, in turns; the median counts."""
    output: Path = RESULTS
    """Folder of the records and of `step.md`, the page about all of them."""


@dataclass(frozen=True)
class Cost:
    """The cost of a step of one optimizer on one network.

    Fields:
        milliseconds: of a step, the mean over the places in a cycle.
        worst: of a step, the slowest place.
        compile_seconds: finding the neurons, tracing and compiling.
        xla_seconds: of these, what XLA takes to compile the traced step.
        kernels: of the compiled step, those that layers share once: what LLVM compiles on the CPU.
        memory: bytes that the compiled step needs at its peak, by XLA's account.
        state: bytes of the optimizer's state over those of the parameters.
    """

    network: str
    optimizer: str
    milliseconds: float
    worst: float
    compile_seconds: float
    xla_seconds: float
    kernels: int
    memory: int
    state: float


class Contestant:
    """One optimizer's compiled step and where it stands."""

    def __init__(self, name: str, network: Network, logits: Logits | None = None) -> None:
        jax.clear_caches()  # nobody gains by what another has traced
        start = time.perf_counter()
        self.name = name
        self.times: list[float] = []
        # The step gives its buffers away, and the network is for all.
        self._params = jax.tree.map(lambda x: x.copy(), network.params)
        self._args = network.args
        step, optimizer = _step(name, network, logits)
        self._state = jax.jit(optimizer.init)(self._params)
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(self._params, self._state, *self._args)
        traced = time.perf_counter()
        self.compiled = lowered.compile()
        self.xla_seconds = time.perf_counter() - traced
        self.compile_seconds = time.perf_counter() - start

    def run(self) -> None:
        """One step."""
        start = time.perf_counter()
        self._params, self._state, loss = self.compiled(self._params, self._state, *self._args)
        jax.block_until_ready((self._params, self._state, loss))
        self.times.append(time.perf_counter() - start)

    def cost(self, network: str) -> Cost:
        """The measured value."""
        places = np.median(np.reshape(self.times, (-1, CYCLE)), axis=0) * 1e3
        memory = self.compiled.memory_analysis()
        peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        return Cost(
            network,
            self.name,
            float(places.mean()),
            float(places.max()),
            self.compile_seconds,
            self.xla_seconds,
            distinct_kernels(self.compiled.as_text()),
            peak - memory.alias_size_in_bytes,
            _bytes(self._state) / _bytes(self._params),
        )


def _step(name: str, network: Network, logits: Logits | None) -> tuple[Step, optax.GradientTransformation]:
    if name in LNB:
        return boosting_step(network, **LNB[name])
    if name != "kfac":
        return gradient_step(network, {"adam": optax.adam(1e-4), "muon": contrib.muon(1e-4)}[name])
    if logits is None:
        raise SystemExit(f"`--optimizers kfac` runs on {' and '.join(LOGITS)} alone: name these as `--networks`.")
    return gradient_step(network, KFAC().build(Classifier(logits, network.args)))


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def measure(name: str, settings: Settings) -> list[Cost]:
    """The cost of a step of each optimizer on one network."""
    network = NETWORKS[name]()
    logits = LOGITS.get(name)
    Contestant(settings.optimizers[0], network, logits)  # a process's first compilation costs more: it is nobody's
    seconds, contestants = [], []
    for _ in range(settings.compilations):
        contestants = [Contestant(optimizer, network, logits) for optimizer in settings.optimizers]
        seconds.append([(contestant.compile_seconds, contestant.xla_seconds) for contestant in contestants])
    for contestant, medians in zip(contestants, np.median(seconds, axis=0).tolist(), strict=True):
        contestant.compile_seconds, contestant.xla_seconds = medians
    for contestant in contestants:  # the first steps renew all statistics, and the caches are cold
        for _ in range(CYCLE):
            contestant.run()
        contestant.times.clear()
    for _ in range(settings.rounds):
        for contestant in contestants:
            for _ in range(CYCLE):
                contestant.run()
    return [contestant.cost(name) for contestant in contestants]


def show(costs: list[Cost], console: Console) -> None:
    """A table of one network."""
    first = costs[0]
    # Ten columns, in the 80 that a terminal has.
    table = Table(title=first.network, box=None, padding=(0, 1, 0, 0))
    for column in (
        "optimizer",
        "ms/step",
        f"/ {first.optimizer}",
        "worst",
        "compile s",
        "/ ",
        "XLA s",
        "kernels",
        "memory",
        "state",
    ):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for cost in costs:
        table.add_row(
            cost.optimizer,
            f"{cost.milliseconds:.1f}",
            f"{cost.milliseconds / first.milliseconds:.2f}",
            f"{cost.worst / first.milliseconds:.2f}",
            f"{cost.compile_seconds:.1f}",
            f"{cost.compile_seconds / first.compile_seconds:.1f}",
            f"{cost.xla_seconds:.1f}",
            f"{cost.kernels:,}",
            f"{cost.memory / first.memory:.2f}",
            f"{cost.state:.2f}",
        )
    console.print(table)


def write_page(folder: Path) -> None:
    """All that was measured so far, as a page of tables: `step.md`, which the documentation includes."""
    paths = {name: folder / f"step-{name}.json" for name in NETWORKS}
    records = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    measured = {name: [Cost(**cost) for cost in record["costs"]] for name, record in records.items()}
    lines = [line for target in TARGETS for line in _beside_target(target, measured)]
    for name, costs in measured.items():
        first, environment = costs[0], records[name]["environment"]
        lines += [
            f"### {name}",
            "",
            f"| optimizer | ms/step | ratio to {first.optimizer} | worst step | compile s | ratio | XLA's s "
            "| kernels | memory | state |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for cost in costs:
            lines.append(
                f"| {cost.optimizer} | {cost.milliseconds:.1f} | {cost.milliseconds / first.milliseconds:.2f} "
                f"| {cost.worst / first.milliseconds:.2f} | {cost.compile_seconds:.1f} "
                f"| {cost.compile_seconds / first.compile_seconds:.1f} | {cost.xla_seconds:.1f} | {cost.kernels:,} "
                f"| {cost.memory / first.memory:.2f} | {cost.state:.2f} |"
            )
        rounds, compilations = records[name]["rounds"], records[name]["compilations"]
        lines += [
            "",
            f"{environment['cpus']} CPUs, JAX {environment['versions']['jax']}; rounds: {rounds}, "
            f"compilations of each: {compilations}.",
            "",
        ]
    (folder / "step.md").write_text("\n".join(lines), encoding="utf-8")


def _beside_target(target: Target, measured: Mapping[str, Sequence[Cost]]) -> list[str]:
    """A table of one quantity, as ratios to the first optimizer's; in bold what misses its target."""
    lines = [f"| {target.title} | {' | '.join(target.bounds)} |", "|---" * (1 + len(target.bounds)) + "|"]
    for name, costs in measured.items():
        cells = []
        for optimizer, bounds in target.bounds.items():
            found = [target.quantity(cost) for cost in costs if cost.optimizer == optimizer]
            ratio = f"{found[0] / target.quantity(costs[0]):.2f}" if found else "-"
            bound = bounds.get(name)
            if found and bound is not None:
                ratio = f"{ratio if float(ratio) <= bound else f'**{ratio}**'} (≤ {bound:g})"
            cells.append(ratio)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def main() -> None:
    """Measure, print, and keep."""
    settings = tyro.cli(Settings)
    console = Console()
    settings.output.mkdir(parents=True, exist_ok=True)
    for name in settings.networks:
        costs = measure(name, settings)
        show(costs, console)
        record = {
            "environment": describe_environment(),
            "rounds": settings.rounds,
            "compilations": settings.compilations,
            "costs": [asdict(cost) for cost in costs],
        }
        (settings.output / f"step-{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_page(settings.output)


if __name__ == "__main__":
    main()
