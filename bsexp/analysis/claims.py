"""What is claimed, what was measured, and what became of the claim: three kinds of plain frozen values.

The one rule: all that a word depends on is in the claim before the data: arms, outcome, word, margin, control, seeds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from bsexp.analysis.paired import Estimate
from bsexp.analysis.words import WITHOUT_DIFFERENCE, WORDS, Word
from bsexp.errors import UsageError, nearest
from bsexp.store.products import Row

KINDS = ("two-arms", "best-of-a-set", "slope", "ratio")
TRAINED = "finished"
FAILURES = ("diverged", "collapsed", "oom")
LOSSES = ("loss", "seconds", "memorised", "gap", "samples", "updates", "memory", "error", "sharpness")


@dataclass(frozen=True, eq=False)
class Record:
    """One run: its status (records.STATUSES) and outcomes by name; None where not measured.

    `examples`: per outcome, its row in a table of all runs' values over the test images (1 or 0 for accuracy, a loss
    in nats). A run that diverged, collapsed or ran out of memory is a failure and has no outcome; one that
    `failed` for reasons of its machine counts as not there.
    """

    status: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    examples: Mapping[str, Row] = field(default_factory=dict)


Outcomes = Mapping[tuple[str, int], Record]


@dataclass(frozen=True)
class Claim:
    """Two arms, or what stands for them, and one word: "`arms[0]` is `word` (than, to) `arms[1]` in `outcome`".

    `kind`: two-arms; best-of-a-set (`arms` are two tuples of arms; of each, the one with the lowest mean val_loss over
    `tuning_seeds` is compared); ratio (log2 of two costs that may be infinite, by the sign test); slope (`arms` lie at
    `positions`; per seed the slope of log2 outcome on log2 position, less `expected`).
    `margin`: share of the effect "arms[1] less control"; for slope and ratio, in units of the slope or of log2.
    `margin_points`: hundredths of the outcome's unit (points of accuracy, .01 nats). At most one of both.
    `control`: an arm that must be worse than arms[1]; equivalent, not-worse and not-better need one (two-arms, best).
    `looks`: numbers of seeds at which the claim is judged, the last one all of them; empty: once, at the end.
    `lower_is_better`: None takes it from the outcome's name (loss, seconds, samples, updates ... are costs; of
    disagreement and barrier, which say how far two runs have come apart, more counts as better).
    `num_test`: test images, to print a margin of accuracy in images; None: as many as there are predictions for.
    UsageError for what does not fit together.
    """

    name: str
    arms: tuple[str, ...] | tuple[tuple[str, ...], tuple[str, ...]]
    outcome: str
    word: str
    seeds: tuple[int, ...]
    kind: str = "two-arms"
    margin: float | None = None
    margin_points: float | None = None
    control: str | None = None
    tuning_seeds: tuple[int, ...] = ()
    positions: tuple[float, ...] = ()
    expected: float = 0.0
    looks: tuple[int, ...] = ()
    lower_is_better: bool | None = None
    num_test: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("expect", self.word, WORDS), ("kind", self.kind, KINDS)):
            if value not in known:
                raise UsageError(f"claim {self.name}: {name}", repr(value), nearest(value, known))
        self._check_seeds()
        self._check_margin()
        if self.kind == "slope":
            if not len(self.arms) == len(self.positions) >= 3 or min(self.positions) <= 0:
                raise self._wrong("positions", str(self.positions), "a slope needs one above 0 for each of 3+ arms")
            if len(set(self.positions)) < 2:
                raise self._wrong("positions", str(self.positions), "a slope needs two that differ")
        elif len(self.arms) != 2 or self.arms[0] == self.arms[1]:
            raise self._wrong("compare", str(self.arms), "name two different arms")
        if (self.kind == "best-of-a-set") != any(isinstance(arm, tuple) for arm in self.arms):
            raise self._wrong(
                "compare", str(self.arms), "two lists of arms go with kind best-of-a-set, names with others"
            )

    def _check_seeds(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise self._wrong("seeds", str(self.seeds), "declare at least one seed, each once")
        if set(self.seeds) & set(self.tuning_seeds):
            shared = sorted(set(self.seeds) & set(self.tuning_seeds))
            raise self._wrong("seeds", str(shared), "seeds used for tuning are never reported")
        if self.kind == "best-of-a-set" and not self.tuning_seeds:
            raise self._wrong("tuning_seeds", "()", "the best of a set is picked on seeds of its own")
        rising = all(early < late for early, late in pairwise(self.looks))
        if self.looks and (self.looks[0] < 2 or not rising or self.looks[-1] != len(self.seeds)):
            raise self._wrong("looks", str(self.looks), f"looks rise from 2 to all {len(self.seeds)} seeds")

    def _check_margin(self) -> None:
        paired = self.kind in ("two-arms", "best-of-a-set")
        for name, value in (("margin", self.margin), ("margin_points", self.margin_points)):
            if value is not None and not (0 < value < math.inf):
                raise self._wrong(name, str(value), "above 0 and finite")
        if self.margin is not None and self.margin_points is not None:
            raise self._wrong("margin", "margin and margin_points", "give one of them")
        if self.word in WITHOUT_DIFFERENCE and self.margin is None and self.margin_points is None:
            raise self._wrong("margin", "none", f"{self.word} needs a margin")
        if paired and self.word in WITHOUT_DIFFERENCE and self.control is None:
            raise self._wrong("control", "none", f"{self.word} needs an arm that is known to be worse")
        if paired and self.margin is not None and self.control is None:
            raise self._wrong("control", "none", "a margin is a share of an effect; name the control, or margin_points")
        if not paired and (self.control is not None or self.margin_points is not None):
            raise self._wrong("margin", self.kind, "takes a margin in its own unit, and no control")

    def _wrong(self, what: str, which: str, cure: str) -> UsageError:
        return UsageError(f"claim {self.name}: {what}", which, cure)

    @property
    def sign(self) -> float:
        """-1 for costs, which are negated before anything is compared; 1 for gains."""
        lower = self.lower_is_better
        if lower is None:
            lower = any(part in self.outcome for part in LOSSES)
        return -1.0 if lower else 1.0


@dataclass(frozen=True)
class Failures:
    """Of `num` runs, how many failed to train, with the exact 95 % interval of their share."""

    count: int
    num: int
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What became of a claim. Differences are first less second, costs negated: above 0 the first arm is better.

    `word` is None for comparisons that nobody declared. `alpha`: the level this claim was tested at, after Holm or at
    its look; `estimate` holds 1 - alpha, `narrow` (for margins) 1 - 2 alpha, `new_data` 1 - alpha for seeds x test
    examples. `p`: two-sided t; `p_sign_flip`: exact; `p_equivalence`: the larger of the two one-sided t; `p_support`:
    of the claimed word by its least favourable test; `p_holm`: that, adjusted. For kind ratio `p_sign_flip` is the sign
    test, `p` is None and `median` (median, low, high) is of -log2(first / second). `margin`: in the outcome's unit,
    `margin_share` of the control effect, `margin_images` in test images. None: not there to be told. Nothing is nan.
    """

    claim: str
    arms: tuple[str, ...]
    outcome: str
    word: Word | None
    num_pairs: int
    alpha: float
    estimate: Estimate | None = None
    narrow: Estimate | None = None
    new_data: Estimate | None = None
    median: tuple[float, float, float] | None = None
    p: float | None = None
    p_sign_flip: float | None = None
    p_equivalence: float | None = None
    p_support: float | None = None
    p_holm: float | None = None
    min_p: float | None = None
    margin: float | None = None
    margin_share: float | None = None
    margin_images: float | None = None
    control_effect: Estimate | None = None
    failures: Mapping[str, Failures] = field(default_factory=dict)
    p_failures: float | None = None
    look: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The word as printed; `exploratory` where none was claimed."""
        return "exploratory" if self.word is None else str(self.word)
