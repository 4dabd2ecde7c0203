"""The command line: words become calls.

The one rule: a command's function here only names its arguments; its work is in `bsexp.commands`, imported when it is
called, so that `--help` needs neither pydantic nor torch. Options come from the table in `options`.
"""

import errno
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.main

from bsexp.errors import BsexpError
from bsexp.option import Option
from bsexp.options import OPTIONS, options_of
from bsexp.streams import NobodyReads, end_streams, error_line, prepare_streams, result_output

app = typer.Typer(
    name="bsexp",
    help="The referee for batch-size and learning-rate schedules.",
    no_args_is_help=True,
    add_completion=False,  # its options would bring pydantic into `--help`; ours below are plain flags
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ARGUMENTS: dict[str, tuple[str, str, bool]] = {
    "run": ("schedule", "A schedule (bsexp list schedules) or module:factory.", True),
    "sweep": ("experiment", "An experiment file; without it the quickstart, or what the options say.", False),
    "worker": ("folder", "The folder of a planned sweep: results/NAME.", True),
    "report": ("folder", "A folder of results [results].", False),
    "plan": ("subject", "A schedule or an experiment file.", True),
    "advise": ("", "", False),
    "export": ("schedule", "A schedule (bsexp list schedules).", True),
    "measure": ("", "", False),
    "find-lr": ("schedule", "The schedule that the rate is for (bsexp list schedules) [fixed-small].", False),
    "find-batch": ("", "", False),
    "inspect": ("folder", "The folder of an experiment: results/NAME.", True),
    "status": ("folder", "A folder of results [results].", False),
    "list": ("kind", "schedules, shapes, policies, datasets or models.", True),
    "init": ("", "", False),
    "doctor": ("", "", False),
}

# Commands that keep what they have when they are ended from outside; so does `measure --critical`.
GOING_ON = ("run", "sweep", "worker", "advise")
HELP = {
    "run": "Train one run, log it, print its summary and where the files are.",
    "sweep": "Make a grid of runs: arms x learning rates x seeds; what is finished is not made again.",
    "worker": "Make runs of a planned sweep (bsexp sweep FILE --jobs 0) until none is left.",
    "report": "Tables and figures from results.",
    "plan": "Show what a schedule or an experiment would do; nothing is trained.",
    "advise": "Find out by trials which schedule suits your model, data and machine, and what it saves.",
    "export": "Print a schedule as a Python function of samples that needs nothing, for your own training loop.",
    "measure": "Measure seconds and memory per update at several batch sizes, on this machine; writes hardware.csv.",
    "find-lr": "Raise the learning rate until training breaks, and suggest one; writes find_lr.csv and a figure.",
    "find-batch": "Find the batch size where throughput levels off, and the largest that memory holds at once.",
    "inspect": "Measure finished runs: sharpness and loss barriers of kept weights, calibration; writes inspected.csv.",
    "status": "Count finished, running, waiting, failed and diverged runs.",
    "list": "List schedules, shapes, policies, data sets or models.",
    "init": "Print a commented experiment file to start from.",
    "doctor": "Check versions, devices, data and write access; each problem with its cure.",
}


def _option(option: Option) -> inspect.Parameter:
    shown = option.shown_default
    text = (
        option.help + (f" ({', '.join(option.choices)})" if option.choices else "") + (f" [{shown}]" if shown else "")
    )
    names = [option.flag]
    if option.kind == "flag" and option.no_form is not None:
        names = [f"{option.flag}/--no-{option.flag[2:]}"]
    if option.short:
        names.append(option.short)
    kind: Any = {"flag": bool | None, "settings": list[str] | None}.get(option.kind, str | None)
    metavar = (
        None
        if option.kind == "flag"
        else {"integer": "N", "number": "X", "settings": "KEY=VALUE"}.get(option.kind, "TEXT")
    )
    information = typer.Option(
        *names, help=text, envvar=option.environment, metavar=metavar, show_default=False, show_envvar=False
    )
    annotation = Annotated[kind, information]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _command(name: str) -> Callable[..., None]:
    """A Typer command made from the table: its argument, its options, and the call of its module."""
    argument, text, required = ARGUMENTS[name]

    def command(**given: Any) -> None:
        module = importlib.import_module(f"bsexp.commands.{name.replace('-', '_')}")
        position = {argument: given.pop(argument)} if argument else {}
        values = {key: value for key, value in given.items() if value is not None and value != []}
        try:
            code = module.main(**position, given=values)
        except BrokenPipeError as error:
            # A process of ours is gone; Typer would take it for the reader of our output and end in silence.
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        if code:
            raise typer.Exit(code)

    parameters = [_option(option) for option in options_of(name)]
    if argument:
        kind: Any = str if required else str | None
        information = typer.Argument(help=text, show_default=False)
        default = inspect.Parameter.empty if required else None
        first = inspect.Parameter(
            argument, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, information]
        )
        parameters = [first, *parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__, command.__doc__ = name, HELP[name]
    return command


for _name in HELP:
    app.command(_name)(_command(_name))


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"bsexp {version('bsexp')}\n")
        raise typer.Exit


def _install_completion(value: bool) -> None:
    if value:
        from typer.completion import install

        shell, path = install(prog_name="bsexp")
        sys.stdout.write(f"completion for {shell} is in {path}; it works in new shells\n")
        raise typer.Exit


@app.callback()
def _bsexp(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion", callback=_install_completion, is_eager=True, help="Complete words in this shell."
        ),
    ] = False,
) -> None:
    """The referee for batch-size and learning-rate schedules."""


def run_cli(arguments: list[str]) -> int:
    """Run one command line; its exit code. Errors become one line on stderr."""
    if "_BSEXP_COMPLETE" in os.environ:
        from typer.completion import completion_init

        completion_init()
    prepare_streams()
    try:
        result = _invoke(arguments)
        if result == 130:
            # Typer turns Ctrl-C into this.
            raise KeyboardInterrupt
        with result_output():
            pass
        return result if isinstance(result, int) else 0
    except NobodyReads:
        return 0
    except SystemExit as error:
        # How Typer ends where its help goes to a closed pipe.
        return 0 if isinstance(error.__context__, BrokenPipeError) else _failed(error, False)
    except KeyboardInterrupt:
        error_line(f"interrupted; {_again(arguments)}")
        return 130
    except BaseException as error:
        if type(error).__name__ == "Stopped":
            error_line(f"stopped by {error}; {_again(arguments)}")
            return getattr(error, "exit_code", 1)
        return _failed(error, "--debug" in arguments or bool(os.environ.get(OPTIONS["debug"].environment)))
    finally:
        end_streams()


def _invoke(arguments: list[str]) -> object:
    group = typer.main.get_command(app)
    commands = getattr(group, "commands", {})
    if arguments and arguments[0] in commands:
        # Straight to the command: on its way through the group Typer would import pydantic, also for `--help`.
        name = arguments[0]
        return commands[name].main(args=arguments[1:], prog_name=f"bsexp {name}", standalone_mode=False)
    return group.main(args=arguments, prog_name="bsexp", standalone_mode=False)


def _again(arguments: list[str]) -> str:
    """What to do after an end from outside: some commands keep what they have."""
    goes_on = bool(arguments) and (arguments[0] in GOING_ON or "--critical" in arguments)
    return "run the same command again" + " to go on" * goes_on


def _failed(error: BaseException, debug: bool) -> int:
    """One line and an exit code for what ended the program."""
    if isinstance(error, BsexpError):
        if debug:
            raise error
        error_line(str(error))
        return error.exit_code
    if isinstance(error, SystemExit | typer.Exit):
        code = getattr(error, "exit_code", getattr(error, "code", 0))
        return code if isinstance(code, int) else 1
    if isinstance(error, typer.Abort):
        error_line("interrupted; run the same command again")
        return 130
    if hasattr(error, "format_message"):
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":
            return 2
        error_line(f"{message.rstrip('.')}; see bsexp --help")
        return getattr(error, "exit_code", 2)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error_line(f"{error.filename or 'output'}: {error.strerror}; free some space and run the same command again")
        return 5
    if debug:
        raise error
    error_line(f"a bug of ours: {type(error).__name__}: {error}; run it with --debug and report it")
    return 1
