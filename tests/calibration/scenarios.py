"""The scenarios: what is simulated, what is claimed about it, and what a tempting shortcut would have said.

The one rule: words come from `judge` itself, single rules from their own function; shortcuts, shown for contrast, are
labelled and bound to nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bsexp.analysis.claims import Claim, Record, Verdict
from bsexp.analysis.exact import mcnemar, sign_flip
from bsexp.analysis.judging import judge
from bsexp.analysis.paired import t_quantile
from tests.calibration.truth import SEEDS, World, claim, heavy, is_wrong


@dataclass(frozen=True)
class Row:
    """A measured share. `kind`: "wrong" (at most `goal`), "covers" (just `goal`), "seen" (no goal: for contrast)."""

    scenario: str
    what: str
    kind: str
    count: int
    num: int
    goal: float | None = None

    @property
    def share(self) -> float:
        return self.count / self.num

    @property
    def slack(self) -> float:
        """Three standard errors of the goal."""
        return 0.0 if self.goal is None else 3 * float(np.sqrt(self.goal * (1 - self.goal) / self.num))

    @property
    def holds(self) -> bool:
        if self.goal is None:
            return True
        high = self.share <= self.goal + self.slack
        return high and (self.kind == "wrong" or self.share >= self.goal - self.slack)


def experiments(
    world: World, num: int, key: int
) -> Iterator[tuple[dict[tuple[str, int], Record], np.random.Generator]]:
    random = np.random.default_rng([2024, key])
    for _ in range(num):
        yield world.draw(random), random


def family(
    name: str,
    world: World,
    claims: Sequence[Claim],
    num: int,
    key: int,
    covered: bool = True,
    each_way: bool = False,
) -> list[Row]:
    """Rates over experiments of one world, judged as one family of claims.

    `each_way`: the bound holds for wrongly supported and for wrongly refuted words, not for both together.
    """
    wrong = {each.name: 0 for each in claims}
    said: dict[str, int] = {f"{each.name}: {word}": 0 for each in claims for word in ("supported", "refuted")}
    anything = inside = intervals = supported = refuted = 0
    for runs, random in experiments(world, num, key):
        verdicts = judge(claims, runs, generator=random)
        mistakes = [_mistaken(each, told, world) for each, told in zip(claims, verdicts, strict=True)]
        anything += any(mistakes)
        verdict = [told.word.verdict for told, mistake in zip(verdicts, mistakes, strict=True) if mistake and told.word]
        supported += "supported" in verdict
        refuted += "refuted" in verdict
        for each, told, mistake in zip(claims, verdicts, mistakes, strict=True):
            wrong[each.name] += mistake
            if told.word and told.word.verdict != "inconclusive":
                said[f"{each.name}: {told.word.verdict}"] += 1
        estimate = verdicts[0].estimate
        if estimate is not None and estimate.low is not None and estimate.high is not None:
            # Standardised to 95 %, because Holm gives each claim a level of its own.
            half = (estimate.high - estimate.low) / 2 * t_quantile(estimate.num) / _quantile(verdicts[0])
            intervals += 1
            inside += abs(estimate.mean - world.difference(claims[0])) <= half + 1e-12
    rows = [Row(name, "any wrong word in the family", "wrong", anything, num, 0.05)]
    if each_way:
        rows = [
            Row(name, "any wrongly supported", "wrong", supported, num, 0.05),
            Row(name, "any wrongly refuted", "wrong", refuted, num, 0.05),
            Row(name, "any wrong word in the family", "seen", anything, num),
        ]
    if covered:
        rows.append(Row(name, f"95 % interval of {claims[0].name} covers", "covers", inside, intervals, 0.95))
    rows += [Row(name, f"wrong: {label}", "seen", count, num) for label, count in wrong.items() if len(claims) > 1]
    return rows + [Row(name, label, "seen", count, num) for label, count in said.items()]


def _quantile(told: Verdict) -> float:
    assert told.estimate is not None
    return t_quantile(told.estimate.num, 1 - told.alpha)


def _mistaken(given: Claim, told: Verdict, world: World) -> bool:
    assert told.word is not None
    return is_wrong(given.word, told.word.verdict, world.difference(given), world.margin(given))


TRIO = (claim("better"), claim("equivalent", control="c", margin=0.25), claim("better", "b", "c"))
FIVE = (
    claim("better", control="c", margin=0.25),
    claim("worse", control="c", margin=0.25),
    *(claim(word, control="c", margin=0.25) for word in ("equivalent", "not-worse", "not-better")),
)


def words(num: int) -> list[Row]:
    """Words, one by one and in families, in the worlds that the specification names."""
    equal, real = {"a": 0.85, "b": 0.85, "c": 0.83}, {"a": 0.86, "b": 0.85, "c": 0.83}
    margin = {"a": 0.845, "b": 0.85, "c": 0.83}
    rows = []
    worlds = [
        ("no difference", World(equal)),
        ("a real difference", World(real)),
        ("no difference, t3 noise", World(equal, noise=heavy)),
        ("a real difference, t3 noise", World(real, noise=heavy)),
        ("no difference, 500 test images", World(equal, images=500)),
        ("no difference, 50 test images", World(equal, images=50)),
        ("no difference, one run in ten diverges", World(equal, diverging=0.1)),
        ("no difference, control without effect", World({"a": 0.85, "b": 0.85, "c": 0.85})),
    ]
    for key, (name, world) in enumerate(worlds):
        rows += family(name, world, TRIO, num, key)
    for key, word in enumerate(("better", "worse", "equivalent", "not-worse", "not-better"), start=20):
        alone = [claim(word, control="c", margin=0.25)]
        rows += family(f"worse by just the margin: {word}", World(margin), alone, num, key)
        rows += family(f"no difference: {word} alone", World(equal), alone, num, key + 10)
    rows += family("6 seeds, no difference", World(equal, seeds=SEEDS[:6]), [claim("better", seeds=SEEDS[:6])], num, 40)
    rows += family("all five words in one family, no difference", World(equal), FIVE, num, 41)
    rows += family("all five words in one family, worse by just the margin", World(margin), FIVE, num, 42)
    # Built to be as bad as can be: a claim true just at its margin, whose support hands its level to a false one.
    cruel = World({"a": 0.8535, "b": 0.85, "e": 0.8465, "c": 0.836})
    both = (claim("better", control="c", margin=0.25), claim("not-worse", "e", "b", control="c", margin=0.25))
    rows += family("true at the margin beside false at the margin", cruel, both, 5 * num, 43, each_way=True)
    return rows


def looks(num: int) -> list[Row]:
    """Declared looks at 8, 16 and 32 seeds, and what looking without declaring does."""
    seeds = tuple(range(32))
    world = World({"a": 0.85, "b": 0.85}, seeds=seeds)
    rows = family(
        "looks at 8, 16, 32, no difference", world, [claim("better", seeds=seeds, looks=(8, 16, 32))], num, 50, False
    )
    real = World({"a": 0.853, "b": 0.85}, seeds=seeds)
    rows += family(
        "looks at 8, 16, 32, .3 points", real, [claim("better", seeds=seeds, looks=(8, 16, 32))], num, 51, False
    )
    hits = 0
    for runs, _ in experiments(World({"a": 0.85, "b": 0.85}, seeds=seeds), num, 52):
        pairs = np.array([_pair(runs, "a", "b", seed) for seed in seeds])
        hits += any(_t_rejects(pairs[:look]) for look in range(6, 33))
    return [*rows, Row("looking after every seed from 6 to 32, t test", "p < .05 at some time", "seen", hits, num)]


def _pair(runs: dict[tuple[str, int], Record], first: str, second: str, seed: int) -> float:
    one, other = runs[first, seed].values["test_accuracy"], runs[second, seed].values["test_accuracy"]
    assert one is not None
    assert other is not None
    return one - other


def _t_rejects(values: np.ndarray) -> bool:
    return bool(abs(values.mean()) > t_quantile(len(values)) * values.std(ddof=1) / np.sqrt(len(values)))


def tuned(num: int) -> list[Row]:
    """The best of eight equal rates against one fixed arm: picked on tuning seeds, and on the reported ones."""
    rates = tuple(f"a{k}" for k in range(8))
    reported, tuning = tuple(range(12)), (100, 101, 102)
    world = World({**dict.fromkeys(rates, 0.85), "b": 0.85}, seeds=(*reported, *tuning))
    best = Claim(
        "a better b", (rates, ("b",)), "test_accuracy", "better", reported, "best-of-a-set", tuning_seeds=tuning
    )
    honest = greedy = 0
    for runs, _ in experiments(world, num, 60):
        for key, record in runs.items():
            runs[key] = Record("finished", {**record.values, "val_loss": 1 - (record.values["test_accuracy"] or 0.0)})
        told = judge([best], runs)[0].word
        honest += told is not None and told.verdict == "supported"
        means = [np.mean([_pair(runs, arm, "b", seed) for seed in reported]) for arm in rates]
        chosen = Claim("greedy", (rates[int(np.argmax(means))], "b"), "test_accuracy", "better", reported)
        told = judge([chosen], {key: record for key, record in runs.items() if key[1] < 100})[0].word
        greedy += told is not None and told.verdict == "supported"
    return [
        Row("best of 8 equal rates, picked on tuning seeds", "wrongly better", "wrong", honest, num, 0.05),
        Row("best of 8 equal rates, picked on the reported seeds", "wrongly better", "seen", greedy, num),
    ]


def failures(num: int) -> list[Row]:
    """Two arms that diverge on one run in ten: how often the rule "2 or more where the other has none" takes a side."""
    random = np.random.default_rng([2024, 70])
    lost = random.random((num, 2, 12)) < 0.1
    counts = lost.sum(axis=2)
    by_rule = ((counts.max(axis=1) >= 2) & (counts.min(axis=1) == 0)).sum()
    alone = (lost[:, 0] & ~lost[:, 1]).sum(axis=1), (~lost[:, 0] & lost[:, 1]).sum(axis=1)
    exact = sum(mcnemar(int(a), int(b)).two_sided <= 0.05 for a, b in zip(*alone, strict=True))
    name = "both arms diverge on one run in ten"
    return [
        Row(name, "worse (unstable) by exact McNemar", "wrong", exact, num, 0.05),
        Row(name, "worse (unstable) by 2 or more of 12 against none", "seen", int(by_rule), num),
    ]


def holm_for_refutations(num: int) -> list[Row]:
    """Two claims true at the edge of refutation, by t on normal values: what Holm's levels for both would do."""
    random = np.random.default_rng([2024, 80])
    values = random.normal(2.5 / np.sqrt(12), 1, (num, 2, 12))
    error = values.std(axis=2, ddof=1) / np.sqrt(12)
    low, high = values.mean(axis=2) / error, (values.mean(axis=2) - 2.5 / np.sqrt(12)) / error

    def wrong(level: float) -> np.ndarray:
        supported = low > t_quantile(12, 1 - level)
        return ~supported & (high < -t_quantile(12, 1 - 2 * level))

    first = wrong(0.025)
    right = low > t_quantile(12, 1 - 0.025)
    passed_on = first | (wrong(0.05) & right[:, ::-1])
    name = "two claims true at the edge of refutation"
    return [
        Row(name, "any wrongly refuted, at alpha / 2 each", "wrong", int(first.any(axis=1).sum()), num, 0.05),
        Row(name, "any wrongly refuted, at Holm's levels", "seen", int(passed_on.any(axis=1).sum()), num),
    ]


def sign_flips(num: int) -> list[Row]:
    """The exact test itself, on ties and on skewed values that break its symmetry."""
    random = np.random.default_rng([2024, 90])
    ties = random.integers(-1, 2, (num, 12)).astype(float)
    skewed = random.exponential(1, (num, 12)) - 1
    return [
        Row("sign flips, 12 ties-ridden pairs", "p <= .05", "wrong", _flipped(ties), num, 0.05),
        Row("sign flips, 12 exponential differences", "p <= .05", "seen", _flipped(skewed), num),
    ]


def _flipped(values: np.ndarray) -> int:
    return sum(sign_flip(row).two_sided <= 0.05 for row in values)
