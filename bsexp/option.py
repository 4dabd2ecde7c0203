"""What an option is: its name, type, range, default and help.

The one rule: what an option accepts is said here once, for the check, the error and the help text alike.
"""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["integer", "number", "text", "flag", "choice", "settings"]

# Commands that train or plan a run: what an option is for unless it says otherwise.
TRAINING = ("run", "sweep", "plan")


@dataclass(frozen=True)
class Option:
    """One option. `default` None: decided by `default_text`. The range is [low, high], its ends open where said.

    `word`: a word accepted beside a number ("auto"). `pattern`: what a text must match, in words `pattern_text`.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    commands: tuple[str, ...] = TRAINING
    in_id: bool = True
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    word: str | None = None
    pattern: str = ""
    pattern_text: str = ""
    default_text: str = ""
    short: str | None = None
    no_form: str | None = ""

    @property
    def flag(self) -> str:
        """As typed: `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The environment variable: `BSEXP_BATCH_SIZE`."""
        return "BSEXP_" + self.name.upper()

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if self.default_text:
            return self.default_text
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return "" if self.default is None else f"{self.default:g}" if self.kind == "number" else str(self.default)

    @property
    def accepts(self) -> str:
        """What may be given, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "flag":
            return "true or false"
        if self.kind in ("text", "settings"):
            return self.pattern_text or "a text"
        noun = "a whole number" if self.kind == "integer" else "a number"
        span = ""
        # In full: a whole number that is shown rounded would be refused.
        if self.low is not None:
            span = f" above {self.low:.12g}" if self.open_low else f" from {self.low:.12g}"
        if self.high is not None:
            span += f" {'below' if self.open_high else 'to'} {self.high:.12g}"
        return noun + span + (f" or {self.word!r}" if self.word else "")


def choice(name: str, choices: tuple[str, ...], default: str | None, help: str, **rest: Any) -> Option:
    return Option(name, "choice", default, help, choices=choices, **rest)


def count(name: str, default: int | None, help: str, low: int = 1, **rest: Any) -> Option:
    return Option(name, "integer", default, help, low=low, **rest)


def share(name: str, default: float | None, help: str, **rest: Any) -> Option:
    return Option(name, "number", default, help, low=0, high=1, open_high=True, **rest)
