"""The program: what `bsexp` and `python -m bsexp` start.

The one rule: Ctrl-C is answered from the first line on, so nothing that takes time is imported at the top.
"""

import os
import signal
import sys
from types import FrameType

from bsexp.sweep.signals import importing

LINE = b"bsexp: interrupted; run the same command again to go on\n"


def main() -> None:
    """Run a command and end with its exit code."""
    try:
        signal.signal(signal.SIGINT, _interrupted)
        from bsexp.cli import run_cli

        code = run_cli(sys.argv[1:])
    except KeyboardInterrupt:
        _end()
    # Threads of libraries are being joined now: an end at once, without a word, is all that is left to ask for.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C, until a run listens to signals itself. In the middle of an import nothing is lost by an end at once."""
    if importing(frame):
        _end()
    raise KeyboardInterrupt


def _end() -> None:
    try:
        os.write(2, LINE)
    finally:
        os._exit(130)


if __name__ == "__main__":
    main()
