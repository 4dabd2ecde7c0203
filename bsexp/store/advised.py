"""advice.json, its figure and verify.toml.

The one rule: what was said before is gone as soon as something else is said: no file of an earlier advice stays.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.store.files import ensure_folder, write_bytes, write_json, write_text
from bsexp.store.paths import Experiment

if TYPE_CHECKING:
    from collections.abc import Iterable


@contextmanager
def alone(place: Experiment) -> Iterator[None]:
    """While nobody else advises in this folder. StoreError where somebody does."""
    from filelock import FileLock, Timeout

    ensure_folder(place.path)
    lock = FileLock(place.path / ".advise.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        which = f"{place.path} is being made by another process"
        raise StoreError("advise", which, "wait for it, or choose another --name") from None
    try:
        yield
    finally:
        lock.release()


def write_advice(
    place: Experiment, document: Mapping[str, Any], verify: Mapping[str, Any] | None, figures: Mapping[str, bytes]
) -> None:
    """Write verify.toml, the figure's files by ending, and advice.json last; what there is none of is taken away.

    An earlier advice.json goes first: whoever is killed in between leaves no two that contradict each other.
    """
    import tomli_w

    ensure_folder(place.path)
    place.advice("json").unlink(missing_ok=True)
    _drop(place.verify for _ in range(verify is None))
    if verify is not None:
        write_text(place.verify, tomli_w.dumps(verify))
    _drop(place.advice(ending) for ending in ("png", "svg") if ending not in figures)
    for ending, content in figures.items():
        write_bytes(place.advice(ending), content)
    write_json(place.advice("json"), document)


def _drop(paths: "Iterable[Any]") -> None:
    for path in paths:
        path.unlink(missing_ok=True)
