"""The program called inside this process, for cases that need none of their own: importing torch takes seconds.

The one rule: the same entrance as the console script's, and nothing stays changed afterwards.
"""

import contextlib
import io
import logging
from pathlib import Path
from typing import NamedTuple

from bsexp.cli import run_cli

DATA = Path(__file__).parent.parent / "data"


class Said(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error; anything else on stderr is a failed assertion."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("bsexp: "), self.err
        assert "a bug of ours" not in lines[0]
        return lines[0]


def said(*arguments: str | Path) -> Said:
    """Run one command line."""
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("bsexp")
    before = logger.handlers, logger.propagate, logger.level
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_cli([str(argument) for argument in arguments])
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
    return Said(code, out.getvalue(), err.getvalue())
