"""Rows of numbers over the same columns (runs over test images), kept as what spreads over rows and columns need.

The one rule: sums of rows, and of products of two rows, hold all that a mean over rows and columns and its variance
depend on, for every contrast of rows, so that a few kilobytes stand for a table of millions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy

BLOCK = 1024  # Columns taken at once.


@dataclass(frozen=True, eq=False)
class Products:
    """Of `num` columns: `sums` (rows,) of each row over them, `products` (rows, rows) of each two rows."""

    num: int
    sums: "numpy.ndarray"
    products: "numpy.ndarray"

    @classmethod
    def of(cls, rows: "numpy.ndarray | Sequence[numpy.ndarray]") -> "Products":
        """Of a table of shape (rows, columns), or its rows. In float64; see `store.predictions` on exactness."""
        import numpy

        num = len(rows[0])
        products = numpy.zeros((len(rows), len(rows)))
        sums = numpy.zeros(len(rows))
        for start in range(0, num, BLOCK):
            block = numpy.stack([row[start : start + BLOCK] for row in rows]).astype(numpy.float64)
            products += block @ block.T
            sums += block.sum(axis=1)
        return cls(num, sums, products)

    def contrast(self, weights: "numpy.ndarray", plus: float = 0.0) -> "Products":
        """Of the rows `weights @ table + plus`, weights of shape (new rows, rows)."""
        sums = weights @ self.sums
        products = weights @ self.products @ weights.T
        if plus:
            products = products + plus * (sums[:, None] + sums[None, :]) + plus**2 * self.num
        return Products(self.num, sums + plus * self.num, products)


class Row(NamedTuple):
    """One row of a table."""

    table: Products
    place: int
