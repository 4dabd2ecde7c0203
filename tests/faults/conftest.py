"""After each test of this folder no program of its is left."""

from collections.abc import Iterator

import pytest

from tests.faults.programs import kill_all


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    kill_all()
