"""The quickstart: the grid of rates around the data set's own, and that every strategy learns from it."""

import tomllib
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest

from bsexp import RunConfig
from tests.conftest import Bsexp


def test_the_rates_are_a_quarter_of_the_data_sets_own_that_one_and_four_times_it() -> None:
    experiment = tomllib.loads(resources.files("bsexp").joinpath("quickstart.toml").read_text(encoding="utf-8"))
    own = RunConfig(schedule="fixed-small", dataset=experiment["run"]["dataset"]).lr
    assert experiment["tune"]["lr"] == pytest.approx([own / 4, own, own * 4])


@pytest.mark.long
def test_every_strategy_learns_on_every_seed_and_none_wants_the_highest_rate(bsexp: Bsexp, tmp_path: Path) -> None:
    result = bsexp("sweep", timeout=1200)
    assert result.returncode == 0, result.stderr
    place = tmp_path / "results" / "quickstart"
    runs = pd.read_csv(place / "runs.csv")
    assert runs.groupby("arm").size().to_dict() == dict.fromkeys(
        ("fixed-small", "fixed-large", "growing-batch", "lr-decay", "one-cycle"), 6
    )
    assert set(runs["status"]) == {"finished"}
    assert runs["test_accuracy"].min() > 0.8
    assert runs.groupby("arm")["test_accuracy"].mean().max() > 0.93
    tune = pd.read_csv(place / "tune.csv")
    places = tune[tune["chosen"]].set_index("arm")["place"]
    # With 20 % of the labels drawn anew a constant rate has to be low; those that fall can start higher.
    assert set(places[["growing-batch", "lr-decay", "one-cycle"]]) == {"2 of 3"}
    assert "3 of 3" not in set(places)
    assert (place / "report" / "report.html").exists()
