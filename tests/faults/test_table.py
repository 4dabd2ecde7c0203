"""The table of README.md: a row for every case, in order, and every test that it names is there.

The one rule: nothing is imported; files are parsed.
"""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
TEXT = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
ROWS = {int(number): row for number, row in re.findall(r"(?m)^\| (\d+) \|(.*)\|$", TEXT)}
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)


@lru_cache
def functions(file: str) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_case_has_a_row_in_order() -> None:
    numbers = [int(number) for number in re.findall(r"(?m)^\| (\d+) \|", TEXT)]
    assert numbers == list(range(1, 43))


@pytest.mark.parametrize("number", range(1, 43))
def test_a_row_names_tests_that_are_there(number: int) -> None:
    found = re.findall(r"`([\w/]+\.py)::(\w+)`", ROWS[number])
    assert ROWS[number].count("::") == len(found), "a name that can't be read"
    assert found
    for file, name in found:
        assert name.startswith("test_")
        assert name in functions(file), f"{file} has no {name}"


def test_the_tests_of_guards_are_there() -> None:
    guards = TEXT.partition("| guard |")[2].partition("\n\n")[0]
    everywhere = {name for path in (TESTS / "faults").glob("test_*.py") for name in functions(f"faults/{path.name}")}
    names = re.findall(r"`(test_\w+)`", guards)
    assert len(names) > 20
    assert not set(names) - everywhere
