"""Numbers as a person reads them."""

from __future__ import annotations

import math


def plus_minus(value: float, error: float) -> str:
    """A number and its error or spread, two digits of this and the number as far.

    >>> plus_minus(14.13, 10.4), plus_minus(14.20918, 0.00023), plus_minus(12346.0, 678.0)
    ('14 ± 10', '14.20918 ± 0.00023', '12,350 ± 680')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    digits = 1 - int(f"{error:.1e}".partition("e")[2])
    if not -6 <= digits <= 6:
        return f"{value:.3g} ± {error:.1e}"
    return " ± ".join(f"{round(number, digits):,.{max(digits, 0)}f}" for number in (value, error))
