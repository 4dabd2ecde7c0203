"""What people see: the only module that prints.

The one rule: results go to stdout, talk goes to stderr; on a terminal progress is a bar, elsewhere a line at a time.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress, TaskID


class Talk:
    """Talk at a level: 0 errors only, 1 as usual, 2 more."""

    def __init__(self, level: int = 1) -> None:
        self.level = level
        self._errors: Console | None = None
        self._output: Console | None = None

    @property
    def errors(self) -> "Console":
        """Where talk goes: stderr."""
        if self._errors is None:
            from rich.console import Console

            self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        return self._errors

    @property
    def output(self) -> "Console":
        """Where results go: stdout; as wide as its text needs where it isn't a terminal."""
        if self._output is None:
            from rich.console import Console

            width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "0") or 0) or 160
            self._output = Console(highlight=False, width=width)
        return self._output

    def hear_logs(self) -> None:
        """Show what the library logs: information as notes, the rest as warnings."""
        logger = logging.getLogger("bsexp")
        logger.setLevel(logging.INFO)
        logger.handlers = [_LogTalk(self)]
        logger.propagate = False

    def note(self, text: str, level: int = 1) -> None:
        """A line of talk."""
        if self.level >= level:
            self.errors.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A warning, also when quiet."""
        self.errors.print(f"bsexp: warning: {text}", markup=False, style="yellow")

    def result(self, text: str) -> None:
        """A line of result."""
        self.output.print(text, markup=False, soft_wrap=True)

    def document(self, document: dict[str, Any]) -> None:
        """One JSON document on stdout."""
        sys.stdout.write(json.dumps({"schema_version": 1, **document}, allow_nan=False, ensure_ascii=True) + "\n")

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, wide: bool = False
    ) -> None:
        """A table on stdout: first column left, the others right unless `wide` texts."""
        from rich import box
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if wide or number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(_escaped(cell) for cell in row))
        self.output.print(table)

    @property
    def live(self) -> bool:
        """Whether a moving display can be shown."""
        return self.level >= 1 and self.errors.is_terminal and not self.errors.is_dumb_terminal


class _LogTalk(logging.Handler):
    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self.talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self.talk.note(record.getMessage())
        else:
            self.talk.warn(record.getMessage())


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def error_line(text: str) -> None:
    """The one line of an error on stderr, without rich: it must work when nothing else does."""
    line = " ".join(text.split())
    try:
        sys.stderr.write(f"bsexp: {line}\n")
    except UnicodeEncodeError:
        sys.stderr.write(f"bsexp: {line.encode('ascii', 'backslashreplace').decode()}\n")


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(3.2), duration(75), duration(7300)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Meter:
    """Progress of something that is counted in `total` units: a bar on a terminal, lines elsewhere."""

    def __init__(self, talk: Talk, title: str, total: float) -> None:
        self.talk, self.title, self.total = talk, title, total
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID

    @contextmanager
    def shown(self) -> "Iterator[Meter]":
        """Show it for as long as the block runs."""
        if not self.talk.live:
            yield self
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        parts = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        with Progress(*parts, console=self.talk.errors, transient=True) as self._bar:
            self._task = self._bar.add_task(self.title, total=self.total, left="", text="")
            yield self
        self._bar = None

    def move(self, done: float, text: str | None = None) -> None:
        """Now `done` units are done; `text` says what is going on (None: what it was)."""
        if self._bar:
            shown: dict[str, Any] = {} if text is None else {"text": text}
            self._bar.update(self._task, completed=done, left=self.time_left(done), **shown)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text, markup=False)
        else:
            self.talk.note(text)

    def time_left(self, done: float) -> str:
        """An estimate from the pace so far."""
        passed = time.monotonic() - self._began
        if done <= 0 or passed < 1:
            return ""
        return f"{duration(passed * (self.total - done) / done)} left"
