"""A batch in parts, where it is larger than memory.

The one rule: each part's mean loss is weighted by its share of the batch, so that the gradients add up to that of the
mean over the whole batch, whatever the parts.
"""

from bsexp.errors import UsageError, shown


def parts(batch_size: int, largest: int) -> list[tuple[slice, float]]:
    """The parts of a batch of `batch_size` samples, none above `largest`, as equal as can be, each with its share.

    Between `optimizer.zero_grad()` and `optimizer.step()`:

        for part, share in parts(len(labels), largest=256):
            (share * loss(model(images[part]), labels[part])).backward()

    with a `loss` that is a mean over samples. Exact where no statistic goes over the whole batch (batch normalisation
    sees parts), up to rounding. Raises UsageError for numbers below 1.

    >>> parts(10, 4)
    [(slice(0, 3, None), 0.3), (slice(3, 6, None), 0.3), (slice(6, 10, None), 0.4)]
    """
    for name, value in (("batch_size", batch_size), ("largest", largest)):
        if type(value) is not int or value < 1:
            raise UsageError(f"parts: {name}", shown(value), "give a whole number from 1")
    number = -(-batch_size // largest)
    edges = [batch_size * k // number for k in range(number + 1)]
    return [(slice(edges[k], edges[k + 1]), (edges[k + 1] - edges[k]) / batch_size) for k in range(number)]
