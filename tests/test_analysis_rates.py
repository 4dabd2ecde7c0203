"""Usable rates and ladders of batch sizes, on tunings whose best rates follow by hand; what a report says."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bsexp.analysis.rates import Ladder, ladders, usable
from bsexp.report import write_report
from bsexp.report.ladders import sentence
from bsexp.report.tables import usable_text
from bsexp.store.tables import Results
from tests.made_results import results

SIZES = (4, 16, 64, 256)
GRID = (0.005, 0.01, 0.02, 0.04, 0.08)
Losses = Mapping[float, float | None]


@pytest.mark.parametrize(
    ("losses", "best", "text", "bounded"),
    [
        # 1 % above .500 is .505.
        ({0.1: 0.52, 0.2: 0.505, 0.4: 0.5, 0.8: 0.506}, 0.4, "0.2 to 0.4", True),
        ({0.1: 0.52, 0.2: 0.5, 0.4: 0.51}, 0.2, "0.2", True),
        # A rate that didn't train is worse; the last one tried is not known to be the last.
        ({0.1: 0.502, 0.2: 0.5, 0.4: None}, 0.2, "≤ 0.1 to 0.2", False),
        ({0.1: 0.6, 0.2: 0.5}, 0.2, "0.2 to ≥ 0.2", False),
        # A good rate behind a bad one is not next to the best.
        ({0.1: 0.501, 0.2: 0.6, 0.4: 0.5, 0.8: 0.6}, 0.4, "0.4", True),
        ({0.1: 0.5}, 0.1, "≤ 0.1 to ≥ 0.1", False),
    ],
)
def test_rates_next_to_the_best_are_usable_within_a_hundredth_of_its_loss(
    losses: Losses, best: float, text: str, bounded: bool
) -> None:
    found = usable(losses, best)
    assert usable_text(found) == text
    assert found.bounded == bounded


def test_the_step_is_the_larger_one_beside_the_best() -> None:
    assert usable({0.1: 0.6, 0.2: 0.5, 0.8: 0.6}, 0.2).step == pytest.approx(4)
    assert usable({0.1: 0.5}, 0.1).step == 1
    with pytest.raises(ValueError, match="got none at"):
        usable({0.1: None}, 0.1)


def bowl(best: float) -> Losses:
    """Losses that rise by 2 % for the first octave from the best rate, and with its square."""
    return {lr: 0.5 * (1 + 0.02 * math.log2(lr / best) ** 2) for lr in GRID}


def tuned(bowls: Mapping[int, Losses], **settings: Any) -> Results:
    """An arm for each batch size, b4 and so on, with the losses of its rates; `settings`: of all arms."""
    rows = []
    for size, losses in bowls.items():
        best = min((lr for lr in losses if losses[lr] is not None), key=lambda lr: losses[lr] or 0)
        for place, (lr, loss) in enumerate(losses.items(), start=1):
            row = {"arm": f"b{size}", "lr": lr, "seeds": "100 101", "val_loss": loss, "chosen": lr == best}
            rows.append(row | {"place": f"{place} of {len(losses)}", "status": "finished" if loss else "diverged"})
    arms = {f"b{size}": {"schedule": "lr-decay", "dataset": "digits", "batch_size": size, **settings} for size in bowls}
    return results(accuracies=dict.fromkeys(arms, (0.8, 0.82)), arms=arms, tuning=pd.DataFrame(rows))


# As tuned: .01 * B^0, and with grids that let it grow as its root, or half of it.
FLAT = {size: bowl(0.02) for size in SIZES}
RISING = {4: bowl(0.01), 16: bowl(0.02), 64: bowl(0.04), 256: bowl(0.08)}


def only(made: Results) -> Ladder:
    (found,) = ladders(made)
    return found


def test_rates_are_those_trained_with_at_the_batch_after_the_scaling_rule() -> None:
    given = tuned(FLAT, lr_scaling="sqrt", reference_batch=16)
    # .02 at a batch of 16; a factor 2 for each factor 4 of the batch.
    assert [rung.rates.best for rung in only(given).rungs] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert only(given).fit.estimate.mean == pytest.approx(0.5)
    assert only(tuned(FLAT, lr_scaling="linear", reference_batch=16)).fit.estimate.mean == pytest.approx(1.0)
    assert only(tuned(FLAT)).fit.estimate.mean == pytest.approx(0.0)


def test_a_ladder_is_of_one_schedule_in_at_least_four_sizes_and_of_tuned_arms() -> None:
    given = tuned(FLAT)
    assert [rung.arm for rung in only(given).rungs] == ["b4", "b16", "b64", "b256"]
    assert ladders(tuned({size: FLAT[size] for size in SIZES[:3]})) == []
    given.arms["b64"]["dropout"] = 0.25
    assert ladders(given) == []
    untuned = tuned(FLAT)
    assert untuned.tuning is not None
    assert ladders(results(arms=untuned.arms, tuning=untuned.tuning[untuned.tuning["arm"] != "b4"])) == []
    assert ladders(results()) == []


def test_arms_that_carry_a_rate_otherwise_to_the_same_batch_are_one_rung() -> None:
    given = tuned(FLAT)
    given.arms["again"] = {**given.arms["b64"], "lr_scaling": "sqrt", "reference_batch": 16}
    assert given.tuning is not None
    extra = given.tuning[given.tuning["arm"] == "b64"].assign(arm="again")
    both = results(arms=given.arms, tuning=pd.concat([given.tuning, extra]))
    assert [rung.arm for rung in only(both).rungs] == ["b4", "b16", "b64", "b256"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        # On a line, in factors of 2 over six octaves: a sixth to either side.
        ({}, "to the power 0.00, between −0.17 and 0.17 (no scaling 0, square root 0.5, linear 1), which"),
        ({"lr_scaling": "sqrt", "reference_batch": 16}, "power 0.50, between 0.33 and 0.67"),
        ({"lr_scaling": "0.25", "reference_batch": 16}, "between 0.08 and 0.42 (no scaling 0, square root 0.5, "),
    ],
)
def test_the_sentence_names_the_laws_inside_the_interval(settings: dict[str, Any], said: str) -> None:
    text = sentence(only(tuned(FLAT, **settings)))
    assert text.startswith("Over 4 batch sizes the tuned learning rate goes as the batch ")
    assert said in text
    ends = {"0.25": "which agrees with none of them.", "sqrt": "which agrees with square root."}
    assert text.endswith(ends.get(settings.get("lr_scaling", ""), "agrees with no scaling."))


def test_a_noisy_ladder_agrees_with_several_laws() -> None:
    line = stats.linregress(np.log(SIZES), np.log([0.01, 0.01, 0.02, 0.02]))
    half = stats.t.ppf(0.975, 2) * line.stderr
    text = sentence(only(tuned({4: bowl(0.01), 16: bowl(0.01), 64: bowl(0.02), 256: bowl(0.02)})))
    numbers = f"to the power {line.slope:.2f}, between {line.slope - half:.2f} and {line.slope + half:.2f} "
    assert numbers.replace("-", "−") in text
    assert text.endswith("which agrees with no scaling and square root.")
    text = sentence(only(tuned({4: bowl(0.01), 16: bowl(0.04), 64: bowl(0.02), 256: bowl(0.04)})))
    assert text.endswith("which rules none of them out.")


def test_a_size_whose_best_rate_lies_at_the_end_is_left_out_and_fewer_than_four_say_nothing() -> None:
    # At 256 the best is the largest rate tried.
    five = {**RISING, 1: bowl(0.02)}
    found = only(tuned(five))
    assert [rung.rates.bounded for rung in found.rungs] == [True, True, True, True, False]
    assert found.fit.estimate.num == 4
    assert "Batch size 256 is not in the fit" in sentence(found)
    text = sentence(only(tuned(RISING)))
    assert text.startswith("How the tuned learning rate goes with the batch can't be told from 4 batch sizes from 4 to")
    assert "3 batch sizes whose best rate is known" in text
    assert "power" not in text


def test_a_report_shows_the_sentence_the_ranges_and_a_figure(tmp_path: Path) -> None:
    report = write_report(tuned(FLAT, lr_scaling="sqrt", reference_batch=16), tmp_path)
    assert {"rates.png", "rates.svg"} <= set(report.figures)
    text = (tmp_path / "report.md").read_text("utf-8")
    part = text.split("## Learning rate against batch size\n")[1]
    assert part.lstrip().startswith("Over 4 batch sizes the tuned learning rate")
    assert "](rates.png)" in part
    assert "batch 64: 0.04, usable 0.04" in part
    assert "| b64 | 64 | 0.04 | 0.04 | ×1 | 0.5000 | yes |" in part
    # In the table of trials, the rate is the one that was given.
    assert "| b64 | 0.02 | 0.5000 | 100 101 | finished | chosen, 3 of 5 | 0.02 |" in text
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<h2>Learning rate against batch size</h2>") == 1
    assert "Over 4 batch sizes the tuned learning rate" in page
    # A report without a ladder takes the figure away again.
    write_report(results(), tmp_path)
    assert not (tmp_path / "rates.png").exists()


def test_two_ladders_have_a_figure_each(tmp_path: Path) -> None:
    given = tuned({**FLAT, **{size: bowl(0.01) for size in (8, 32, 128, 512)}})
    for size in (8, 32, 128, 512):
        given.arms[f"b{size}"]["dropout"] = 0.25
    report = write_report(given, tmp_path)
    assert {"rates--1.png", "rates--2.png"} <= set(report.figures)
