"""Facts of arms and threats to their claims, from made results whose numbers follow by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from bsexp.analysis.claims import Claim, Verdict
from bsexp.analysis.declared import Declared
from bsexp.analysis.facts import facts_of, scope_of
from bsexp.analysis.paired import Estimate, t_quantile
from bsexp.analysis.verdicts import Findings, Judged
from bsexp.analysis.words import Word
from bsexp.report.forest import forest, picture
from bsexp.report.groups import make_groups, without_variants
from bsexp.report.threats import threats
from bsexp.report.verdicts import answer, sensitivity_table, verdict_table
from bsexp.store.tables import Results
from tests.made_results import results

GROW = {
    "schedule": "growing-batch",
    "dataset": "digits",
    "batch_size": 16,
    "epochs": 4.0,
    "parameters": {"milestones": [0.5], "factor": 4},
}
DECAY = {**GROW, "schedule": "lr-decay", "warmup_epochs": 0.4}
SETTINGS = {"small": {**DECAY, "norm": "none"}, "grow": {**GROW, "label_noise": 0.2}}


def made() -> Results:
    found = results(accuracies={"small": (0.80, 0.82, 0.84), "grow": (0.90, 0.92, 0.94)}, arms=SETTINGS)
    found.runs["total_shrink"] = found.runs["arm"].map({"small": 0.010, "grow": 0.020})
    found.runs["best_val_accuracy"] = found.runs["val_accuracy"] + found.runs["arm"].map({"small": 0.0, "grow": 0.02})
    return found


def test_phases_and_last_updates_follow_from_the_plan() -> None:
    facts = facts_of(made(), ["grow"], {})["grow"]
    # 400 samples in 25 updates of 16, for the cap is the larger of that and a tenth of 100 samples; 13 of them begin in
    # the first half, then the rate falls in the batch's place; the last two share what remains and are no phase.
    assert facts.phase_updates == (13, 10)
    assert (facts.last_updates, facts.batch_size) == ((16, 16), 16)
    assert facts.warmup_samples == 0
    assert facts.total_shrink == pytest.approx(0.020)


def test_a_growing_batch_has_a_phase_for_each_size() -> None:
    wide = replace(made(), arms={"grow": {**GROW, "max_batch": 50}})
    facts = facts_of(wide, ["grow"], {})["grow"]
    # 13 of 16 are 208; above the cap of 50 the rate falls with it: 192 = 50 + 50 + 46 + 46.
    assert facts.phase_updates == (13, 2)
    assert (facts.last_updates, facts.batch_size) == ((46, 46), 50)


def test_warm_up_is_told_in_samples_and_is_no_phase() -> None:
    facts = facts_of(made(), ["small"], {})["small"]
    assert facts.warmup_samples == 40
    # Updates start at 0, 16, 32: warming up. From 48 to 208 there are 10, then 12 at the lower rate, two of them last.
    assert facts.phase_updates == (10, 10)
    assert facts.norm == "none"


def test_batch_statistics_are_told_with_the_samples_that_they_are_taken_over() -> None:
    arms = {"grow": {**GROW, "model": "cnn-small", "max_batch": 50, "norm": "batch", "ghost_batch": 0}}
    assert facts_of(replace(made(), arms=arms), ["grow"], {})["grow"].norm_batch == (16, 50)
    arms["grow"]["ghost_batch"] = 8
    assert facts_of(replace(made(), arms=arms), ["grow"], {})["grow"].norm_batch == (8, 8)


def test_an_arm_that_takes_anothers_rate_has_its_place_in_the_grid() -> None:
    rows = [{"arm": "small", "lr": 0.1, "chosen": True, "place": "2 of 3", "seeds": "100"}]
    given = replace(made(), tuning=pd.DataFrame(rows), definition={"rates": {"grow": {"of": "small", "times": 1.0}}})
    facts = facts_of(given, ["small", "grow"], {"small": 0.1, "grow": 0.1})
    assert facts["small"].lr_place == facts["grow"].lr_place == (2, 3)
    assert facts_of(made(), ["small"], {})["small"].lr_place is None


def test_the_scope_names_model_data_budget_and_optimizer() -> None:
    assert scope_of(made(), "grow") == "mlp on digits, 4 epochs, 20 % of the training labels re-drawn, SGD"
    assert scope_of(made(), "unheard") == ""


SUPPORTED = Word("supported")


def judged(word: Word | None = SUPPORTED, low: float = 0.05) -> Judged:
    claim = Claim("Growing is better", ("grow", "small"), "test_accuracy", "better", (0, 1, 2))
    estimate = Estimate(0.1, low, 0.2 - low, 3)
    verdict = Verdict(
        claim.name, ("grow", "small"), "test_accuracy", word, 3, 0.05, estimate=estimate,
        new_data=Estimate(0.1, 0.1 - 2 * (0.1 - low), 0.1 + 2 * (0.1 - low), 3), p_holm=0.01,
    )  # fmt: skip
    other = replace(verdict, word=Word("inconclusive"))
    return Judged(Declared(claim, claim.name), verdict, {"lr_factor=0.5": other}, {"grow": None, "small": None})


def test_each_threat_has_its_number() -> None:
    found = threats(made(), Findings([judged()], "Declared before the data.", []))
    text = "\n".join(found)
    # The half-width .05 is t(2 degrees) * sd / sqrt(3).
    spread = 100 * 0.05 * 3**0.5 / t_quantile(3)
    assert f"Claim 1: Over 3 seeds the difference has a standard deviation of {spread:.2f} points" in text
    assert "over new test images as well it is 2.0 times as wide, ± 10.00 points" in text
    assert "differs by 50 %: grow 0.02, small 0.01" in text
    assert "Warm-up differs: grow 0 samples, small 40." in text
    assert "grow: phase 1 has 13 updates, phase 2 has 10 updates; below 50" in text
    assert "grow: untuned" in text
    assert "grow: its best evaluation was 2.0 points above the last" in text
    assert "small: its best" not in text
    assert "Scope: mlp on digits" in text
    assert "0 of 6 failed to train" in text
    assert "1 claim in one family" in text


def test_a_threat_of_several_claims_is_told_once() -> None:
    two = [judged(), replace(judged(), declared=replace(judged().declared, text="Another"))]
    found = threats(made(), Findings(two, "Declared.", []))
    assert sum("Warm-up differs" in text for text in found) == 1
    assert next(text for text in found if "Warm-up" in text).startswith("All claims: ")


def test_the_answer_has_the_numbers_of_the_first_claim_then_counts() -> None:
    two = [judged(), replace(judged(word=None), declared=replace(judged().declared, text="Another"))]
    assert answer(Findings(two, "", []), made()) == (
        "“Growing is better” is supported: in test accuracy grow less small is +10.00 points, between +5.00 "
        "and +15.00, over 3 seeds, in 20 against 40 updates. Of 2 declared claims: 1 supported, 1 exploratory."
    )


def test_variants_stand_in_a_table_of_their_own_and_in_no_figure() -> None:
    table = sensitivity_table(Findings([judged()], "", []))
    assert table is not None
    assert [row[1].text for row in table.rows] == ["as declared", "with lr_factor=0.5"]
    assert [row[2].text for row in table.rows] == ["supported", "inconclusive"]
    assert sensitivity_table(Findings([replace(judged(), elsewhere={})], "", [])) is None
    given = results(definition={"variants": {"large": {"of": "small", "what": "lr_factor=0.5"}}})
    (group,) = make_groups(without_variants(given))
    assert group.labels == ["small", "grow"]
    assert set(group.evals["label"]) == {"small", "grow"}


def test_the_forest_has_a_row_for_each_claim_and_its_words_in_the_alternative_text() -> None:
    findings = Findings([judged(), judged(word=Word("refuted"))], "", [])
    figure = forest(findings)
    assert figure is not None
    (axes,) = figure.axes
    shown = " ".join(text.get_text() for text in axes.texts)
    assert "1. Growing is better" in shown
    assert "better: refuted" in shown
    assert "+10.00 [+5.00, +15.00], 3 seeds" in shown
    assert picture(findings, "verdicts").alt.count("+10.00") == 2
    unknown = replace(judged(), verdict=replace(judged().verdict, estimate=None))
    assert forest(Findings([unknown], "", [])) is None


def test_a_row_of_the_table_of_verdicts_is_numbered_like_the_threats() -> None:
    table = verdict_table(Findings([judged()], "Declared.", []))
    assert table.rows[0][0].text == "1. Growing is better"
