"""The figures: what is drawn, that labels keep apart, that looks belong to arms and bytes to results."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from bsexp.report import groups, palette
from bsexp.report.drawing import png_bytes, spread, svg_bytes
from bsexp.report.figures import draw, final
from bsexp.report.groups import Group, make_groups
from bsexp.report.rungs import budgets
from bsexp.report.wording import picture
from tests.made_results import results


def group(**changes: object) -> Group:
    return make_groups(results(**changes))[0]  # type: ignore[arg-type]


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [text.get_text() for text in figure.texts]


def test_all_four_figures_are_drawn() -> None:
    assert list(draw(group())) == ["final", "curves", "curves-averaged", "schedules"]


def test_averaged_weights_are_drawn_against_samples_alone() -> None:
    loss, accuracy = draw(group())["curves-averaged"].axes
    assert loss.get_title(loc="left") == "Validation loss (nats), averaged weights"
    assert accuracy.get_title(loc="left") == "Validation accuracy (%), averaged weights"
    assert loss.get_xlabel() == accuracy.get_xlabel() == draw(group())["curves"].axes[0].get_xlabel()
    assert "updates" not in picture(group(), "curves-averaged", "curves-averaged").alt


def test_drawing_twice_gives_the_same_bytes_without_date_or_version() -> None:
    once, again = draw(group()), draw(group())
    for name in once:
        png, svg = png_bytes(once[name]), svg_bytes(once[name])
        assert png == png_bytes(again[name])
        assert svg == svg_bytes(again[name])
        assert b"Software" not in png
        assert b"matplotlib.org" not in svg
        assert b"dc:date" not in svg


def test_nothing_is_left_behind_in_matplotlibs_settings() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    png_bytes(draw(group())["final"])
    assert dict(matplotlib.rcParams) == before


def test_a_curve_is_the_mean_over_seeds_and_each_seed_is_there() -> None:
    axes = draw(group())["curves"].axes[3]
    line = next(line for line in axes.lines if line.get_color() == palette.look(0).color and len(line.get_xdata()) > 2)
    # Row k of each seed: .1 + share * (accuracy - .1), mean accuracy of `small` .82.
    assert list(line.get_ydata()) == pytest.approx([10, 28, 46, 64, 82])
    assert list(line.get_xdata()) == pytest.approx([0, 1, 2, 3, 4])
    seeds = next(artist for artist in axes.collections if isinstance(artist, LineCollection))
    assert sorted(path.vertices[-1][1] for path in seeds.get_paths()) == pytest.approx([80, 82, 84])


def test_a_logarithmic_axis_of_updates_begins_with_the_first_evaluation_after_an_update() -> None:
    # 40 and 8 updates: a ratio of 5. The row before the first update has no place on the axis.
    made = results()
    large = made.evals["arm"] == "large"
    made.evals.loc[large, "step"] = made.evals.loc[large, "step"] * 8 // 10
    axes = draw(group(evals=made.evals))["curves"].axes[4]
    assert axes.get_xscale() == "log"
    assert all(min(line.get_xdata()) > 0 for line in axes.lines)
    paths = [path for lines in axes.collections if isinstance(lines, LineCollection) for path in lines.get_paths()]
    seeds = [path for path in paths if len(path.vertices) > 2]
    assert len(seeds) == 9
    assert all(path.vertices[:, 0].min() > 0 for path in seeds)


def test_axis_names_stand_under_the_data_and_seeds_end_before_the_names() -> None:
    made = results()
    slow = made.evals["seed"] == 2
    made.evals.loc[slow, "train_seconds"] *= 3
    axes = draw(group(evals=made.evals))["curves"].axes[2]
    low, high = axes.spines["bottom"].get_bounds()
    assert high == pytest.approx(3.0)
    share = (high - low) / (axes.get_xlim()[1] - low)
    assert axes.xaxis.label.get_position()[0] == pytest.approx(share / 2)


def test_rows_of_seeds_that_ended_at_different_lengths_are_cut_to_the_common_ones() -> None:
    made = results()
    short = made.evals.drop(made.evals[(made.evals["config_hash"] == "small-0") & (made.evals["epoch"] == 4)].index)
    axes = draw(group(evals=short))["curves"].axes[3]
    line = next(line for line in axes.lines if line.get_color() == palette.look(0).color and len(line.get_xdata()) > 2)
    assert list(line.get_xdata()) == pytest.approx([0, 1, 2, 3])


def test_names_at_line_ends_do_not_overlap_and_are_not_clipped() -> None:
    equal = {f"an-arm-called-{place}": (0.8 + place * 1e-4, 0.81) for place in range(12)}
    for name, figure in draw(group(accuracies=equal)).items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        for axes in figure.axes:
            boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
            for one, other in itertools.combinations(boxes, 2):
                wide = min(one.x1, other.x1) - max(one.x0, other.x0)
                high = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert not (wide > 1 and high > 1), name
            for box in boxes:
                assert box.x0 >= 0, name
                assert box.x1 <= figure.bbox.x1, name
                assert box.y0 >= 0, name
                assert box.y1 <= figure.bbox.y1, name


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([5.0], [5.0]),
        ([0.0, 10.0], [0.0, 10.0]),
        ([4.0, 4.0], [3.0, 5.0]),
        ([4.0, 4.0, 4.0], [2.0, 4.0, 6.0]),
        ([-9.0, -9.0], [0.0, 2.0]),
        ([99.0, 99.0], [8.0, 10.0]),
    ],
)
def test_spread_moves_as_little_as_it_can(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, gap=2.0, low=0.0, high=10.0) == pytest.approx(expected)


def test_spread_keeps_the_gap_and_the_order_whatever_is_wanted() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        wanted = list(random.uniform(0, 100, 9))
        placed = spread(wanted, gap=5.0, low=0.0, high=100.0)
        assert np.argsort(wanted).tolist() == np.argsort(placed).tolist()
        assert np.diff(sorted(placed)).min() >= 5 - 1e-9


def test_an_arm_looks_the_same_when_another_is_missing() -> None:
    whole = group().looks
    made = results()
    part = group(runs=made.runs[made.runs["arm"] != "small"])
    assert part.looks["grow"] == whole["grow"]
    assert part.looks["large"] == whole["large"]


def test_the_first_24_arms_are_told_apart_and_their_names_can_be_read() -> None:
    looks = [palette.look(place) for place in range(24)]
    assert len({(look.color, look.dashes) for look in looks}) == 24
    assert len({look.color for look in looks[:8]}) == 8
    assert min(palette.contrast(look.text) for look in looks) >= 4.5
    # WCAG: black on white is 21, white on white 1.
    assert (palette.contrast("#000000"), palette.contrast("#FFFFFF")) == (pytest.approx(21), pytest.approx(1))


def test_final_shows_means_with_half_widths_and_updates() -> None:
    shown = texts(draw(group())["final"])
    # .80 .82 .84: s = .02, half width 4.302653 * .02 / sqrt 3 = .049683
    assert "82.00 ± 4.97" in shown
    assert "0.1800 ± 0.0497" in shown
    assert "83.00 ± 4.97" in shown
    assert "40 updates" in shown


def test_a_diverged_run_is_named_and_not_averaged() -> None:
    shown = texts(draw(group(status={("small", 2): "diverged"}))["final"])
    assert "✗ 1 of 3 diverged" in shown
    # .80 .82: half width 12.7062 * .01
    assert "81.00 ± 12.71" in shown


def test_an_arm_without_a_finished_run_says_so() -> None:
    shown = texts(draw(group(status={("small", seed): "collapsed" for seed in range(3)}))["final"])
    assert "no finished run" in shown
    assert "✗ 3 of 3 collapsed" in shown


def test_one_seed_has_no_interval() -> None:
    figures = draw(group(accuracies={"small": (0.8,), "grow": (0.9,)}))
    assert "80.00" in texts(figures["final"])
    assert any("there is no interval" in text for text in texts(figures["final"]))
    for figure in figures.values():
        assert png_bytes(figure)


def test_when_all_diverged_only_the_schedules_are_drawn() -> None:
    status = {(arm, seed): "diverged" for arm in ("small", "large", "grow") for seed in range(3)}
    assert list(draw(group(status=status))) == ["schedules"]


def test_equal_values_and_full_accuracy_are_drawn() -> None:
    figures = draw(group(accuracies={"small": (1.0, 1.0, 1.0), "large": (1.0, 1.0, 1.0)}))
    assert "100.00 ± 0.00" in texts(figures["final"])
    assert all(png_bytes(figure) for figure in figures.values())


def test_schedules_are_drawn_as_steps_from_zero() -> None:
    axes = draw(group())["schedules"].axes[0]
    line = next(line for line in axes.lines if line.get_color() == palette.look(2).color and len(line.get_xdata()) > 2)
    assert line.get_drawstyle() == "steps-pre"
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (0.0, 10.0)
    # 20 updates of 10 samples end at epoch 2; from there 40.
    assert line.get_ydata()[21] == 40.0
    assert axes.get_yscale() == "log"


def test_a_learning_rate_that_anneals_to_zero_and_a_full_batch_are_drawn() -> None:
    steps = results().steps
    steps["lr"] = 0.1 * (1 - steps["epoch"] / 4)
    steps.loc[steps["arm"] == "large", "noise_scale"] = 0.0
    assert png_bytes(draw(group(steps=steps))["schedules"])
    steps["noise_scale"] = None
    assert "not measured, or zero throughout" in texts(draw(group(steps=steps))["schedules"])


def test_names_with_markup_and_foreign_letters_are_drawn_as_they_are() -> None:
    figure = final(group(accuracies={"a$b$_{c}": (0.8, 0.9), "学習率": (0.8, 0.9)}))
    assert figure is not None
    assert "a$b$_{c}" in texts(figure)
    assert png_bytes(figure)


def test_without_a_validation_split_curves_speak_of_the_test_split() -> None:
    evals = results().evals.rename(columns=lambda name: name.replace("val_", "test_"))
    made = group(evals=evals)
    assert made.split == "test"
    assert draw(made)["curves"].axes[0].get_title(loc="left") == "Test loss (nats)"


def test_a_ladder_of_budgets_is_drawn_by_what_each_budget_ends_at() -> None:
    made = group()
    runs = made.runs.copy()
    short = runs["label"] == "large"
    runs.loc[short, ["label", "epochs"]] = ["small[budget=0.25]", runs["epochs"].max() / 4]
    names = {"large": "small[budget=0.25]"}
    looks = {names.get(label, label): each for label, each in made.looks.items()}
    ladder = replace(made, runs=runs, looks=looks)
    figure = budgets(ladder)
    assert figure is not None
    assert budgets(made) is None
    loss, accuracy = figure.axes
    line = accuracy.containers[0].lines[0]
    finished = ladder.finished
    both = ("small[budget=0.25]", "small")
    means = [100 * finished.loc[finished["label"] == label, "test_accuracy"].mean() for label in both]
    assert list(line.get_ydata()) == pytest.approx(means)
    assert [text.get_text() for text in loss.texts] == ["small"]
    ticks = [loss.xaxis.get_major_formatter()(value, 0) for value in loss.get_xticks()]
    assert ticks == ["1", "4"]


def test_of_very_many_runs_only_means_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_LINES", 3)
    axes = draw(group())["curves"].axes[3]
    lines = [each for each in axes.collections if isinstance(each, LineCollection)]
    assert not any(len(path.vertices) > 2 for each in lines for path in each.get_paths())
    assert "Thin lines" not in picture(group(), "curves", "curves").caption
    monkeypatch.undo()
    assert "Thin lines" in picture(group(), "curves", "curves").caption
