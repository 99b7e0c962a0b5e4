"""How numbers are written, in tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence


def loss(value: float) -> str:
    """Four digits.

    >>> loss(0.123456)
    '0.1235'
    """
    return f"{value:.4g}"


def accuracy(value: float) -> str:
    """Percent with two decimals.

    >>> accuracy(0.98765)
    '98.77 %'
    """
    return f"{value:.2%}".replace("%", " %")


def share(value: float) -> str:
    """A whole percentage; with a decimal below 10.

    >>> share(0.613), share(0.0213)
    ('61 %', '2.1 %')
    """
    return f"{100 * value:,.{1 if value < 0.095 else 0}f} %"


def steps(value: float) -> str:
    """A whole number.

    >>> steps(12345.6)
    '12,346'
    """
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Three digits or more, with the unit.

    >>> seconds(0.01234), seconds(1234.5)
    ('0.0123 s', '1,234 s')
    """
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


def times(value: float) -> str:
    """A factor.

    >>> times(1.234), times(20.06)
    ('1.23', '20.1')
    """
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def ratio(value: float) -> str:
    """A factor in a table, two decimals where that tells enough.

    >>> ratio(1.0), ratio(0.0123), ratio(20.06)
    ('1.00', '0.0123', '20.1')
    """
    return f"{value:.2f}" if 0.1 <= value < 10 else times(value)


def with_spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Mean and standard deviation; a dash if there are no values.

    >>> with_spread((0.98765 - 0.0012, 0.98765, 0.98765 + 0.0012), accuracy)
    '98.77 ± 0.12 %'
    >>> with_spread((0.1, 0.2), loss)
    '0.15 ± 0.071'
    """
    if len(values) < 2:
        return form(values[0]) if values else "-"
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if form is accuracy:
        return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{form(mean)} ± {deviation:.2g}"
