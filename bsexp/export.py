"""A schedule as Python that needs nothing: a function samples -> (batch_size, lr, momentum).

The one rule: a curve's formula is copied out of its own source with its values written in, never written down a second
time. What is written here is how each strategy combines its curves; tests run every one of them beside the original.
"""

import ast
import inspect
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from bsexp.errors import UsageError
from bsexp.schedules import Schedule, Update, curves, scaling, simulate
from bsexp.schedules.closed import ClosedLoop
from bsexp.schedules.curves import Curve
from bsexp.schedules.custom import read_curve
from bsexp.schedules.planned import Planned
from bsexp.schedules.shapes import BATCH_SHAPES, LR_SHAPES, ONE_CYCLE_PARAMETERS

PASSED = '''def passed(marks, x):
    """How many of the marks lie at or below x."""
    return sum(mark <= x for mark in marks)
'''


def export_schedule(schedule: Schedule, *, total_samples: int, num_train: int, title: str = "") -> str:
    """The source of a module with one function for use, `schedule(samples)`, that imports `math` and nothing else.

    `samples` are those that training has consumed before an update; the result is what that update uses, to the last
    bit what bsexp plans. `title` is told in the function's docstring. Raises UsageError for a schedule that isn't made
    of bsexp's curves, or can't be planned.
    """
    if isinstance(schedule, ClosedLoop):
        if not schedule.others:
            raise UsageError("export", title or schedule.name, "what is decided along a run is no function of samples")
        schedule = schedule.ground
    if not isinstance(schedule, Planned):
        raise UsageError("export", title or "a schedule of your own", "it is a function already: take that one")
    updates = list(simulate(schedule, total_samples=total_samples, num_train=num_train))
    return _Writer(schedule, total_samples, num_train).module(title, updates)


class _Writer:
    """Collects the functions that a schedule is made of, and what stands in its body."""

    def __init__(self, planned: Planned, total: int, num_train: int) -> None:
        self.planned, self.total, self.num_train = planned, total, num_train
        self.values = planned.parameters
        self.first, self.largest = planned.setting.batch_size, planned.largest(num_train)
        self.warmup = planned.warmup_share(total, num_train)
        self.functions: list[str] = []
        self._names: dict[str, int] = {}
        self.body: list[str] = []
        self.factors: list[str] = []
        self.momentum = repr(planned.setting.momentum)

    def module(self, title: str, updates: list[Update]) -> str:
        """All of it, as text."""
        RULES[self.planned.strategy.name](self)
        if self.body[0] != f"batch = {self.first}":
            self.body.append("batch = round(batch)")
        self._scale()
        self._warm_up()
        helpers = "\n\n".join(text.rstrip() + "\n" for text in self.functions)
        if "passed(" in helpers:
            helpers = f"{PASSED}\n\n{helpers}"
        lr = " * ".join([repr(self.planned.setting.lr), *self.factors])
        lines = [
            *self.body,
            f"lr = {lr}",
            f"momentum = {self.momentum}",
            f"left = {self.total} - samples",
            # Told by its position as well: near its end a schedule may want less than what is left.
            f"if samples >= {updates[-1].samples} or left <= batch:",
            "    batch = left",
            "elif left < 2 * batch:",
            "    batch = (left + 1) // 2",
            "return batch, lr, momentum",
        ]
        body = "\n".join(f"    {line}" for line in lines)
        return MODULE.format(
            helpers=f"\n{helpers}\n" if helpers else "",
            title=_docstring(title or self.planned.strategy.name),
            total=self.total,
            updates=len(updates),
            num_train=self.num_train,
            body=body,
        )

    # -- pieces

    def add(self, curve: Callable[[float], float]) -> str:
        """Write the function that `curve` is, and those it is made of; its name."""
        node, name = _definition(curve)
        known = {key: self._known(value) for key, value in inspect.getclosurevars(curve).nonlocals.items()}
        node = ast.fix_missing_locations(_Settled(known).visit(node))
        number = self._names[name] = self._names.get(name, 0) + 1
        node.name = name if number == 1 else f"{name}_{number}"
        self.functions.append(ast.unparse(node))
        return node.name

    def _known(self, value: Any) -> ast.expr:
        if callable(value):
            return ast.Name(self.add(value), ast.Load())
        if isinstance(value, list | tuple):
            return ast.Tuple([self._known(item) for item in value], ast.Load())
        return ast.parse(repr(value), mode="eval").body

    def shape(self, selector: str) -> str:
        """The factor that the chosen shape of a learning rate gives, as a call."""
        shape = LR_SHAPES[self.values[selector]]
        curve = shape.build(**{parameter.name: self.values[parameter.name] for parameter in shape.parameters})
        w = self.warmup
        return f"{self.add(curve)}({'f' if shape.whole or not w else f'max(0.0, (f - {w!r}) / (1 - {w!r}))'})"

    def capped(self, batch: str, at_cap: str) -> None:
        """Growth up to the cap, where the rate takes over the rest or nothing happens."""
        self.body += [f"batch = {batch}", "factor = 1.0", f"if batch > {self.largest}:"]
        if at_cap == "decay-lr":
            power = 1.0 if self.planned.setting.optimizer == "sgd" else 0.5
            self.body.append(f"    factor = ({self.largest} / batch) ** {power}")
        self.body.append(f"    batch = {self.largest}")
        self.factors.append("factor")

    def fixed(self, *factors: str) -> None:
        """The first batch throughout."""
        self.body.append(f"batch = {self.first}")
        self.factors += factors

    def _scale(self) -> None:
        scale = self.planned.scale
        if scale(2.0) != 1.0:
            self.factors.append(f"{self.add(scale)}(batch / {self.planned.reference})")

    def _warm_up(self) -> None:
        epochs = self.planned.setting.warmup_epochs
        length, at = (self.warmup, "f") if epochs is None else (epochs * self.num_train, "samples")
        if length > 0:
            self.factors.append(f"{self.add(curves.warm_up(length, self.planned.warmup_start))}({at})")


MODULE = '''import math

{helpers}
def schedule(samples):
    """{title}

    Batch size, learning rate and momentum of the update that starts after `samples` samples: {total} of them in
    all, in {updates} updates; an epoch has {num_train}.
    """
    if not 0 <= samples < {total}:
        raise ValueError(f"samples: {{samples}}; the budget goes from 0 to {total}")
    f = samples / {total}
{body}
'''


def _docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', "'''")


# -- how strategies combine their curves, as `strategies` has it


def _growing(writer: _Writer) -> None:
    values = writer.values
    if not values.get("match"):
        shape = BATCH_SHAPES[values["shape"]]
        between = shape.build(**{parameter.name: values[parameter.name] for parameter in shape.parameters})
        writer.capped(f"{writer.add(between(writer.first, writer.largest))}(f)", values["at_cap"])
        return
    number, first, largest = writer.num_train, writer.first, writer.largest
    hold = values["at_cap"] == "hold"
    writer.body.append(f"c = {writer.shape('match')}")
    if writer.planned.setting.optimizer == "sgd":
        excess = number / first - 1
        writer.body += [f"batch = {number} / (1 + c * {excess!r})", "factor = 1.0", f"if batch > {largest}:"]
        writer.body += [] if hold else [f"    factor = c * {excess!r} / {number / largest - 1!r}"]
        writer.body.append(f"    batch = {largest}")
    else:
        at_cap = "1.0" if hold else f"c * math.sqrt({largest / first!r})"
        _either(writer, f"{first} <= {largest} * c ** 2", (f"{first} / c ** 2", "1.0"), (str(largest), at_cap))
    writer.factors.append("factor")


def _either(writer: _Writer, test: str, yes: tuple[str, str], no: tuple[str, str]) -> None:
    """Batch and factor, depending on whether `test` holds."""
    for line, (batch, factor) in ((f"if {test}:", yes), ("else:", no)):
        writer.body += [line, f"    batch = {batch}", f"    factor = {factor}"]


def _late_switch(writer: _Writer) -> None:
    growth = curves.step([writer.values["switch"]], writer.values["factor"])
    writer.capped(f"{writer.first} * {writer.add(growth)}(f)", writer.values["at_cap"])


def _batch_warmup(writer: _Writer) -> None:
    ramp = curves.join([curves.linear(1 / 8, 1.0), curves.constant(1.0)], [writer.values["ramp"]])
    writer.body.append(f"batch = {writer.first} * {writer.add(ramp)}(f)")
    writer.factors.append(writer.shape("shape"))


def _hybrid(writer: _Writer) -> None:
    values, stages = writer.values, writer.values["grow_stages"]
    if stages is not None:
        marks, factor = values["milestones"], values["factor"]
        writer.capped(f"{writer.first} * {writer.add(curves.step(marks[:stages], factor))}(f)", "decay-lr")
        writer.body.append(f"factor = factor * {writer.add(curves.step(marks[stages:], 1 / factor))}(f)")
        return
    sgd = writer.planned.setting.optimizer == "sgd"
    share = values["share"]
    power, keep = (share, 1.0) if sgd else (2 * share, 0.5)
    first, largest = writer.first, writer.largest
    writer.body.append(f"c = {writer.shape('shape')}")
    yes = (f"{first} / c ** {power!r}", f"c ** {1 - share!r}")
    no = (str(largest), f"c * {(largest / first) ** keep!r}")
    _either(writer, f"{first} <= {largest} * c ** {power!r}", yes, no)
    writer.factors.append("factor")


def _one_cycle(writer: _Writer) -> None:
    values = writer.values
    curve = curves.one_cycle(**{parameter.name: values[parameter.name] for parameter in ONE_CYCLE_PARAMETERS})
    writer.fixed(f"{writer.add(curve)}(f)")
    if values["cycle_momentum"]:
        high, low = values["max_momentum"], values["base_momentum"]
        bend = curves.cosine if values["anneal"] == "cos" else curves.linear
        parts, marks = [bend(high, low), bend(low, high)], [values["pct_start"]]
        if values["three_phase"]:
            parts, marks = [*parts, curves.constant(high)], [*marks, 2 * values["pct_start"]]
        writer.momentum = f"{writer.add(curves.join(parts, marks))}(f)"


def _cyclic(writer: _Writer) -> None:
    values = writer.values
    writer.body.append(f"c = {writer.shape('shape')}")
    writer.fixed("c")
    if values["cycle_momentum"]:
        high, low, bottom = values["max_momentum"], values["base_momentum"], 1 / values["ratio"]
        writer.momentum = f"{high!r} - {high - low!r} * (c - {bottom!r}) / {1 - bottom!r}"


def _custom(writer: _Writer) -> None:
    def call(name: str) -> str | None:
        table = writer.values[name]
        return None if table is None else f"{writer.add(read_curve(name, table))}(f)"

    batch, lr, momentum = call("batch"), call("lr"), call("momentum")
    writer.body.append(f"batch = {writer.first} * {batch or 1.0}")
    writer.factors += [lr] if lr else []
    writer.momentum = momentum or writer.momentum


RULES: dict[str, Callable[[_Writer], None]] = {
    "fixed-small": lambda writer: writer.fixed(),
    "fixed-large": lambda writer: writer.fixed(),
    "lr-decay": lambda writer: writer.fixed(writer.shape("shape")),
    "growing-batch": _growing,
    "late-switch": _late_switch,
    "batch-warmup": _batch_warmup,
    "hybrid": _hybrid,
    "one-cycle": _one_cycle,
    "cyclic": _cyclic,
    "custom": _custom,
}


# -- a curve's own source, with its values written in


@lru_cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _definition(curve: Curve) -> tuple[ast.FunctionDef, str]:
    """The function that a factory of `curves` (or `scaling`) returned, as a definition, and the factory's name."""
    factory, _, inner = curve.__qualname__.partition(".<locals>.")
    module = curves if curve.__module__ == curves.__name__ else scaling
    (outer,) = (item for item in _tree(module).body if isinstance(item, ast.FunctionDef) and item.name == factory)
    kind: type[ast.AST] = ast.Lambda if inner == "<lambda>" else ast.FunctionDef
    (found,) = (item for item in ast.walk(outer) if isinstance(item, kind) and item is not outer)
    arguments = [ast.arg(argument.arg) for argument in found.args.args]  # type: ignore[attr-defined]
    body = [ast.Return(found.body)] if isinstance(found, ast.Lambda) else found.body  # type: ignore[attr-defined]
    text = ast.unparse(ast.Module(list(body), []))
    node = ast.parse(f"def {factory}({', '.join(item.arg for item in arguments)}):\n    pass").body[0]
    assert isinstance(node, ast.FunctionDef)
    # Parsed anew: what is changed below must not change the tree that is kept.
    node.body = ast.parse(f"def f():\n{_indented(text)}").body[0].body  # type: ignore[attr-defined]
    return node, factory


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


class _Settled(ast.NodeTransformer):
    """Writes known values in the place of names, and settles choices between known values."""

    def __init__(self, known: dict[str, ast.expr]) -> None:
        self.known = {**known, "bisect_right": ast.Name("passed", ast.Load())}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.known.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        test = node.test
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq):
            sides = (test.left, test.comparators[0])
            if all(isinstance(side, ast.Constant) for side in sides):
                test = ast.Constant(ast.literal_eval(sides[0]) == ast.literal_eval(sides[1]))
        if isinstance(test, ast.Constant):
            return node.body if test.value else node.orelse
        return node
