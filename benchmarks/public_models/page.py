"""The page about published networks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from public_models.measure import ADAM_RATES, LAST, RATE, STEPS, Record

_OPTIMIZERS = ("lnb", *(f"adam {rate:g}" for rate in ADAM_RATES))
_COLUMNS = ("network", "parameters", "covered", "neurons", "compared", "first loss", "LNB")

_START = f"""<!-- Written by benchmarks/public_models: run `make public-models`. -->

# Networks of other libraries

These networks were published by others, and none was written with LNB in mind. Each is built by its library's own code,
at a size that two CPU cores can train, and learns made-up data.

- **covered** is the share of the parameters that belong to a neuron. [What is not covered](#what-is-not-covered) gives
  the reasons for the rest.
- **neurons** counts them by kind; [What is covered](coverage.md) describes the kinds.
- **compared** counts the dense layers whose Gram matrix was compared with the layer's inputs, as the library itself
  passes them to the layer.
- **LNB** and **Adam** are the losses at the end of {STEPS} steps, the mean of the last {LAST}, from the same weights
  and batches. LNB has its documented rate {RATE:g} and Adam three rates. No rate was chosen for a network. **–** means
  that the loss was not finite. The lowest loss of a row is bold. A run counts as diverged if its end is more than a
  tenth above the loss of the first weights, on the same batches where that was measured and on the first one elsewhere.

The gradient that LNB evaluates was compared with that of `jax.value_and_grad` on every network. Of 74 networks, drawn
at random, the losses are of today's default, and so are those of JAX-PI. The others were measured before `lnb.Auto` had
its `drift` and a ridge for each feature of the data. On the 74, today's default ends lower than that one on 41 and
higher on 15; the two runs that diverge are among these.
"""


def page(records: Sequence[Record]) -> str:
    """The whole page, in Markdown."""
    measured = [record for record in records if not record.failure]
    failed = [record for record in records if record.failure]
    lines = [_START, *_summary(measured), ""]
    for library, group in groupby(sorted(measured, key=lambda record: record.library.lower()), lambda r: r.library):
        own = list(group)
        versions = ", ".join(f"{name} {number}" for name, number in own[0].versions.items())
        lines += [f"## {library}", "", f"With {versions}.", "", *_table(own), ""]
    lines += ["## What is not covered", "", *_reasons(measured), ""]
    if failed:
        lines += ["## Not measured", "", _row("network", "what happened"), _row("---", "---")]
        lines += [_row(f"{record.library}: {record.name}", f"`{record.failure}`") for record in failed] + [""]
    return "\n".join(lines)


def _summary(records: Sequence[Record]) -> Iterator[str]:
    total, libraries = len(records), len({record.library for record in records})
    covered = sum(record.coverage == 1 for record in records)
    gradients = max(record.gradient_error for record in records)
    compared = sum(record.gram_matrices for record in records)
    error = max(record.gram_error for record in records)
    yield f"- {total} networks of {libraries} libraries; {covered} are covered wholly."
    yield f"- Gradients differ by at most {gradients:.0e} of the largest entry, most in 32-bit arithmetic."
    yield f"- {compared} Gram matrices were compared; they differ by at most {error:.0e} of the largest entry."
    yield f"- LNB diverged on {_named(record for record in records if _diverged(record, 'lnb'))}."
    for name in _OPTIMIZERS[1:]:
        better = sum(_end(record, "lnb") < _end(record, name) for record in records)
        lost = _named(record for record in records if _diverged(record, name))
        yield f"- LNB ends below Adam at {name.split()[1]} on {better} of {total}. Adam diverged on {lost}."
    best = sum(_end(record, "lnb") <= min(_end(record, name) for name in _OPTIMIZERS) for record in records)
    yield f"- LNB ends below Adam's best of the three rates on {best} of {total}."


def _named(records: Iterable[Record]) -> str:
    """How many, and their names."""
    names = [f"{record.library}'s {record.name}" for record in records]
    return f"{len(names)} ({'; '.join(names)})" if names else "none"


def _table(records: Sequence[Record]) -> Iterator[str]:
    columns = (*_COLUMNS, *(f"Adam {rate:g}" for rate in ADAM_RATES))
    yield _row(*columns)
    yield _row("---", *["---:"] * 2, "---", *["---:"] * (len(columns) - 4))
    for record in records:
        assert record.losses is not None
        assert record.kinds is not None
        ends = [_end(record, name) for name in _OPTIMIZERS]
        first = record.losses["lnb"][0]
        yield _row(
            record.name,
            f"{record.parameters:,}",
            _percent(record.coverage),
            ", ".join(f"{number} {kind}" for kind, number in sorted(record.kinds.items(), key=lambda kv: -kv[1])),
            str(record.gram_matrices or ""),
            f"{first:.3g}",
            *(_bold(f"{end:.3g}" if math.isfinite(end) else "–", end == min(ends)) for end in ends),
        )
    notes = [record for record in records if record.note]
    if notes:
        yield ""
        yield from (f"- {record.name}: {record.note}" for record in notes)


def _reasons(records: Sequence[Record]) -> Iterator[str]:
    yield _row("network", "parameters", "reason")
    yield _row(*["---"] * 3)
    for record in records:
        reasons = Counter(reason for _, reason in record.uncovered)
        for reason, count in reasons.items():
            first = next(path for path, own in record.uncovered if own == reason)
            more = f" and {count - 1} more" if count > 1 else ""
            yield _row(f"{record.library}: {record.name}", f"`{first}`{more}", reason)


def _end(record: Record, optimizer: str) -> float:
    """The loss at the end; infinite if it was not finite."""
    assert record.losses is not None
    end = record.losses[optimizer][1]
    return end if math.isfinite(end) else math.inf


def _diverged(record: Record, optimizer: str) -> bool:
    """Whether the loss ended above that of the first weights by more than a tenth of its size."""
    assert record.losses is not None
    start = record.losses[optimizer][0] if record.untrained is None else record.untrained
    return _end(record, optimizer) > start + 0.1 * abs(start)


def _percent(share: float) -> str:
    """Rounded down, so that 100 % is all."""
    return f"{math.floor(1000 * share) / 10:g} %"


def _bold(text: str, condition: bool) -> str:
    return f"**{text}**" if condition else text


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
