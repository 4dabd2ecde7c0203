"""What people see: the only module that prints.

The one rule: results go to stdout, talk goes to stderr; on a terminal progress is a bar, elsewhere a line at a time.
Talk that can't be written is dropped and work goes on; a result that can't be written ends the program.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from bsexp.streams import result_output, spelt, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

# Wide enough for any table: elsewhere than on a terminal nothing needs to be folded.
ENDLESS = 10_000
# Terminals below this have room for a percentage and the time that is left.
NARROW = 72


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
            self._errors = _console(stderr=True, soft_wrap=True)
        return self._errors

    @property
    def output(self) -> "Console":
        """Where results go: stdout; as wide as its text needs where it isn't a terminal and COLUMNS says nothing."""
        if self._output is None:
            self._output = _console()
            if not sys.stdout.isatty():
                self._output.width = self._output.width if _columns() else ENDLESS
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
            with suppress(OSError):
                self.errors.print(visible(text), markup=False)

    def warn(self, text: str) -> None:
        """A warning, also when quiet."""
        with suppress(OSError):
            self.errors.print(f"bsexp: warning: {visible(text)}", markup=False, style="yellow")

    def result(self, text: str, heading: str = "") -> None:
        """A line of result, behind a heading that stands out."""
        from rich.text import Text

        with result_output():
            self.output.print(Text.assemble((visible(heading), "bold"), visible(text)), soft_wrap=True)

    def content(self, text: str) -> None:
        """A file's content, as it is."""
        with result_output():
            sys.stdout.write(text)

    def document(self, document: dict[str, Any]) -> None:
        """One JSON document on stdout."""
        text = json.dumps({"schema_version": 1, **document}, allow_nan=False, ensure_ascii=True)
        self.content(f"{text}\n")

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, wide: bool = False
    ) -> None:
        """A table on stdout: first column left, the others right unless `wide` texts.

        Where not even its words fit side by side, each row is a list instead.
        """
        encoding = self.output.encoding
        cells = [[spelt(visible(cell), encoding) for cell in row] for row in (columns, *rows)]
        if _narrowest(cells) > self.output.width:
            self._list(cells, title)
        else:
            with result_output():
                self.output.print(_table(cells, title, wide))

    def _list(self, cells: Sequence[Sequence[str]], title: str | None) -> None:
        columns, *rows = cells
        if title:
            self.result("", heading=title)
        for row in rows:
            if len(row) == 2:
                self.result(f"{row[0]}: {row[1]}")
                continue
            self.result(f"{columns[0]}: {row[0]}")
            for name, value in zip(columns[1:], row[1:], strict=True):
                if value:
                    self.result(f"  {name}: {value}")

    @property
    def live(self) -> bool:
        """Whether a moving display can be shown: on a terminal, whatever colours are asked for elsewhere."""
        return self.level >= 1 and sys.stderr.isatty() and not self.errors.is_dumb_terminal


def _console(**options: Any) -> "Console":
    from rich.console import Console

    class Unpiped(Console):
        def on_broken_pipe(self) -> None:
            # rich would end the program with 1.
            raise

    return Unpiped(highlight=False, **options)


def _columns() -> int:
    """The width that COLUMNS asks for; 0 where it doesn't, as rich has it."""
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isdigit() else 0


def _narrowest(cells: Sequence[Sequence[str]]) -> int:
    """The width of a table that is folded between words only."""
    from rich.cells import cell_len

    longest = (
        max((cell_len(word) for text in column for word in text.split()), default=0)
        for column in zip(*cells, strict=True)
    )
    return sum(width + 3 for width in longest)


def _table(cells: Sequence[Sequence[str]], title: str | None, wide: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=None if title is None else Text(visible(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
    )
    columns, *rows = cells
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if wide or number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


class _LogTalk(logging.Handler):
    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self.talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self.talk.note(record.getMessage())
        else:
            self.talk.warn(record.getMessage())


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
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

        parts: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        if self.talk.errors.width < NARROW:
            parts = (parts[2], parts[4])
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
            with suppress(OSError):
                self._bar.console.print(visible(text), markup=False)
        else:
            self.talk.note(text)

    def time_left(self, done: float) -> str:
        """An estimate from the pace so far."""
        passed = time.monotonic() - self._began
        if done <= 0 or passed < 1:
            return ""
        return f"{duration(passed * (self.total - done) / done)} left"
