"""Disagreement: how often two networks say something else of the same example.

The one rule: it compares the two with one another, never with the truth; right or wrong doesn't enter.
"""

from collections.abc import Sequence


def disagreement(first: Sequence[int], second: Sequence[int]) -> float:
    """Share of the examples of which two networks predict different classes, in [0, 1].

    Jiang et al. 2022 (arXiv:2106.13799, section 2), for two runs that differ in the order of their samples alone. It is
    at most the sum of their errors; two runs that are both always right agree. Raises ValueError without examples, or
    for predictions of different numbers of them.

    >>> disagreement([0, 1, 2, 3], [0, 1, 3, 2])
    0.5
    """
    if not len(first) or len(first) != len(second):
        raise ValueError(f"predictions of {len(first)} and {len(second)} examples can't be compared")
    return sum(one != other for one, other in zip(first, second, strict=True)) / len(first)
