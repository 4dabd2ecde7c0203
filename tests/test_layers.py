"""The layers: imports run downward only, and light commands import nothing heavy."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsexp.options import OPTIONS, options_of
from tests.conftest import ROOT

# From the bottom up; a module may import from its own layer and from those below.
LAYERS = [
    ["errors", "seeding", "plugins"],
    ["signals"],
    ["schedules"],
    ["catalog", "option", "options"],
    ["config", "records", "planning", "export"],
    ["data", "models"],
    ["store"],
    ["engine"],
    ["analysis"],
    ["sweep"],
    ["report"],
    # A user's own loop: nothing of ours but tests may import these.
    ["torch", "lightning", "transformers"],
    ["streams", "console", "commands", "cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NO_TORCH = (
    *("analysis", "report", "store", "console", "commands", "config", "records", "planning"),
    *("option", "options", "export"),
)
STANDARD_ONLY = (
    *("streams", "errors", "seeding", "plugins", "signals", "schedules", "catalog"),
    *("option", "options", "export"),
)
OUTSIDE = ("torch", "lightning", "transformers")
MODULES = sorted(
    path for path in (ROOT / "bsexp").rglob("*.py") if path.parent.name != "bsexp" or path.stem != "__init__"
)


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "bsexp").parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """What a module imports, and whether at its top (not inside a function, nor only for type checkers)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "bsexp":
                names = [f"bsexp.{alias.name}" for alias in node.names]
        found += [(name, node in tree.body) for name in names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward_only(path: Path) -> None:
    mine = LEVEL[layer(path)]
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "bsexp" and len(parts) > 1:
            assert LEVEL[parts[1]] <= mine, f"{path.relative_to(ROOT)} imports {name} from above"


def test_nothing_of_ours_depends_on_what_users_loops_import() -> None:
    for path in MODULES:
        if layer(path) not in OUTSIDE:
            assert not [
                name for name, _ in imports(path) if name.startswith(tuple(f"bsexp.{part}" for part in OUTSIDE))
            ]


def test_the_engine_sees_neither_store_nor_console() -> None:
    for path in (ROOT / "bsexp" / "engine").glob("*.py"):
        assert not [name for name, _ in imports(path) if name.startswith(("bsexp.store", "bsexp.console"))]


def test_report_and_analysis_never_import_torch() -> None:
    for folder in ("report", "analysis"):
        for path in (ROOT / "bsexp" / folder).rglob("*.py"):
            assert not [name for name, _ in imports(path) if name.split(".")[0] in ("torch", "torchvision")]


def test_no_module_without_tensors_imports_torch_at_its_top() -> None:
    for path in MODULES:
        if layer(path) in NO_TORCH:
            assert not [name for name, top in imports(path) if top and name.split(".")[0] == "torch"], path


def test_the_bottom_layers_need_the_standard_library_only() -> None:
    for path in MODULES:
        if layer(path) in STANDARD_ONLY:
            for name, _ in imports(path):
                root = name.split(".")[0]
                assert root == "bsexp" or root in sys.stdlib_module_names, f"{path} imports {name}"


HEAVY = ("torch", "pandas", "matplotlib", "scipy", "torchvision", "sklearn")
PROBE = """
import sys
from bsexp.cli import run_cli
code = run_cli(sys.argv[1:])
heavy = [name for name in {heavy!r} if name in sys.modules]
sys.stderr.write(f"\\ncode={{code}} heavy={{heavy}}\\n")
"""


def probe(arguments: list[str], heavy: tuple[str, ...], cwd: Path) -> str:
    text = PROBE.format(heavy=heavy)
    result = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stderr.strip().splitlines()[-1]


COMMANDS = [[], ["run"], ["sweep"], ["plan"], ["export"], ["report"], ["find-lr"], ["find-batch"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_pydantic_nor_anything_heavy(command: list[str], tmp_path: Path) -> None:
    assert probe([*command, "--help"], ("pydantic", *HEAVY), tmp_path) == "code=0 heavy=[]"


def test_help_of_a_heavier_command_would_be_noticed(tmp_path: Path) -> None:
    # The probe itself: a command that needs pydantic shows it.
    assert probe(["list", "schedules"], ("pydantic",), tmp_path) == "code=0 heavy=['pydantic']"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list", "schedules"], 0),
        (["plan", "growing-batch"], 0),
        (["plan", "quick.toml"], 0),
        (["export", "growing-batch"], 0),
        (["status", "results"], 0),
        (["run", "fixed-small", "--lr", "-1"], 2),
        (["run", "nosuch"], 2),
        (["sweep", "quick.toml", "--epochs", "0"], 2),
        (["sweep", "--dry-run"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_light_commands_and_errors_import_nothing_heavy(arguments: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "quick.toml").write_text('[arms.a]\nschedule = "fixed-small"\n')
    assert probe(arguments, HEAVY, tmp_path) == f"code={code} heavy=[]"


def test_a_run_imports_torch_and_nothing_else_that_is_heavy(tmp_path: Path) -> None:
    others = tuple(name for name in HEAVY if name != "torch")
    assert probe(["run", "fixed-small", "--epochs", "0.05", "--quiet"], others, tmp_path) == "code=0 heavy=[]"


def test_every_command_takes_its_options_from_the_table() -> None:
    import typer.main

    from bsexp.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        expected = {option.name for option in options_of(name)}
        options = [p for p in command.params if p.param_type_name == "option" and p.name in OPTIONS]
        assert {option.name for option in options} == expected
        assert command.help
        for option in options:
            assert option.envvar == f"BSEXP_{option.name.upper()}"
