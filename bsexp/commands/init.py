"""`bsexp init`: an experiment file to start from."""

from importlib import resources
from typing import Any

from bsexp.commands.given import talk_of


def main(given: dict[str, Any]) -> int:
    """Print the commented experiment file that ships with the package."""
    talk = talk_of(given)
    talk.content(resources.files("bsexp").joinpath("example.toml").read_text(encoding="utf-8"))
    return 0
