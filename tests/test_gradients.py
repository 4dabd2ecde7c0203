"""Gradients of batches against the exact one: each number against a slow obvious computation, and the identity."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bsexp import RunConfig, Training
from bsexp.analysis.gradients import error_slope
from bsexp.analysis.ratios import ratio_of_means
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.engine.gradients import Looking, NotPossible, num_draws
from bsexp.errors import StoreError, UsageError
from bsexp.records import GradientRow, StepRecord
from bsexp.report.stochastic import gradient_figure
from bsexp.sweep.stochasticity import advance, looked_at, measure_gradients
from tests.test_engine import weights

SMALL: dict[str, Any] = {"schedule": "fixed-small", "train_size": 60, "epochs": 4.0, "label_noise": 0.2}


def looking(digits: Images, **options: Any) -> Looking:
    config = RunConfig(**{**SMALL, "precision": "fp64", **options})
    return Looking(config, data=prepare(config, digits), device="cpu")


def by_hand(run: Looking) -> Tensor:
    """The gradient of each training sample, one backward pass after another: (N, parameters)."""
    model = run.model.eval()
    rows = []
    for k in range(run.num_train):
        images, labels = run._batches.plain(run._data.train, k, k + 1)
        loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=run.config.label_smoothing)
        found = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([one.flatten() for one in found]))
    model.train()
    return torch.stack(rows)


MODELS: list[dict[str, Any]] = [
    {},
    {"dropout": 0.4, "label_smoothing": 0.1},
    {"model": "cnn-small"},
    {"model": "lenet", "precision": "fp32"},
]


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_the_exact_gradient_and_its_noise_are_those_of_single_samples(digits: Images, options: dict[str, Any]) -> None:
    run = looking(digits, **options)
    advance(run, 60)
    each = by_hand(run).double()
    tolerance = 1e-9 if run.config.precision == "fp64" else 1e-4
    mean = each.mean(0)
    torch.testing.assert_close(run.exact(), mean, rtol=tolerance, atol=tolerance * float(mean.abs().max()))
    found = run.exact_noise()
    assert found.grad_sq_norm == pytest.approx(float(mean @ mean), rel=tolerance)
    # numpy's own covariance, divided by N - 1.
    assert found.grad_var == pytest.approx(float(np.trace(np.cov(each.numpy(), rowvar=False))), rel=tolerance)


def test_noise_from_micro_batches_is_that_of_the_samples_in_the_mean(digits: Images) -> None:
    run = looking(digits, augment=None, dropout=0.3)
    advance(run, 40)
    exact = run.exact_noise()
    # 60 samples: batches of 2 in 2 parts.
    found = run.noise(4000)
    for name in ("grad_sq_norm", "grad_var"):
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - getattr(exact, name)) < 4 * values.std() / math.sqrt(len(values))


def test_what_is_measured_is_the_images_as_they_are(digits: Images) -> None:
    """Crop and mirror are left out: the exact gradient of a run that augments is that of one that doesn't."""
    plain = looking(digits, model="cnn-small")
    data = replace(prepare(plain.config, digits), crop=2, mirror=True)
    config = plain.config
    augmented = Looking(config, data=data, device="cpu")
    torch.testing.assert_close(augmented.exact(), plain.exact())
    for one, other in zip(plain.noise(3), augmented.noise(3), strict=True):
        assert tuple(one) == pytest.approx(tuple(other), rel=1e-9)


def test_a_batch_of_all_samples_has_no_error_and_a_batch_is_drawn_as_said(digits: Images) -> None:
    run = looking(digits)
    exact = run.exact()
    whole = run.drawn(exact, 60, replacement=False)
    assert float(whole.errors.max()) < 1e-20
    assert whole.cosines.tolist() == pytest.approx([1.0] * 64)
    again = run.drawn(exact, 60, replacement=True)
    assert float(again.errors.min()) > 1e-4


def test_errors_are_what_the_theorem_says(digits: Images) -> None:
    run = looking(digits)
    exact = run.exact()
    sigma = run.exact_noise().grad_var
    for size in (1, 4, 30):
        for replacement in (False, True):
            errors = run.drawn(exact, size, replacement).errors
            # With replacement the samples are the population: its variance is divided by N.
            expected = sigma / size * (59 / 60 if replacement else 1 - size / 60)
            assert abs(float(errors.mean()) - expected) < 4.5 * float(errors.std()) / math.sqrt(len(errors))
    assert (num_draws(1), num_draws(2048)) == (2048, 64)


@pytest.mark.parametrize("options", [{"dropout": 0.3}, {"model": "cnn-small"}], ids=str)
def test_looking_changes_nothing_of_the_training(digits: Images, options: dict[str, Any]) -> None:
    run = looking(digits, **options)
    for samples in (0, 70, 130):
        advance(run, samples)
        exact = run.exact()
        run.noise(2)
        run.exact_noise()
        run.drawn(exact, 32, replacement=True)
    config = run.config
    plain = Training(config, data=prepare(config, digits), device="cpu")
    while plain.samples < run.samples:
        assert isinstance(next(plain), object)
    assert all(torch.equal(a, b) for a, b in zip(weights(run), weights(plain), strict=True))
    assert run.model.training


def test_updates_of_an_unwatched_training_are_those_of_any(digits: Images) -> None:
    run = looking(digits)
    config = run.config
    plain = Training(config, data=prepare(config, digits), device="cpu")
    mine = [float(next(run).loss) for _ in range(5)]
    theirs = [float(record.loss) for record in plain if isinstance(record, StepRecord)]
    assert mine == theirs[:5]


def test_what_has_no_gradients_of_its_own_is_refused(digits: Images) -> None:
    with pytest.raises(UsageError, match="gradient: norm batch: a sample has no gradient of its own"):
        looked_at({"dataset": "digits", "norm": "batch", "model": "cnn-small", "ghost_batch": 0}, [0.0])
    with pytest.raises(UsageError, match="precision bf16: too coarse"):
        looked_at({"dataset": "digits", "precision": "bf16"}, [0.0])
    # A network of somebody else's is found out when it is built.
    run = looking(digits, model="resnet20", precision="fp32")
    with pytest.raises(UsageError, match="resnet20 normalises over batches"):
        run.require_own_gradients()
    looking(digits).require_own_gradients()


def test_a_training_that_diverged_is_told(digits: Images) -> None:
    run = looking(digits, lr=1e200)
    advance(run, 100)
    with pytest.raises(UsageError, match=r"gradient: not finite after \d+ samples; it has diverged"):
        run.exact()


def test_weights_of_another_network_are_refused(digits: Images) -> None:
    run = looking(digits)
    with pytest.raises(StoreError, match="weights of another network"):
        run.load({"nothing": torch.zeros(1)}, 5)
    run.load(run.model.state_dict(), 77)
    assert run.samples == 77


def test_a_network_without_gradients_of_single_samples_does_without(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Looking) -> None:
        raise NotPossible("gradients of single samples: no")

    monkeypatch.setattr(Looking, "exact_noise", refused)
    monkeypatch.setattr("bsexp.data.sources.load_images", lambda *_: digits)
    told: list[str] = []
    config = looked_at({"dataset": "digits", "train_size": 60}, [0.0])
    rows, num_train = measure_gradients(config, [1, 4], [0.0], None, "cpu", told.append)
    assert num_train == 60
    assert {(row.grad_var, row.b_simple_exact) for row in rows} == {(None, None)}
    assert any("without an exact tr(Sigma)" in line for line in told)
    assert gradient_figure(rows, 60).axes


def test_points_of_training_are_measured_one_after_another(digits: Images) -> None:
    config = looked_at({"dataset": "digits", "train_size": 64, "batch_size": 16}, [2.0, 0.0, 0.5])
    assert config.epochs == 2.0
    rows, _ = measure_gradients(config, [2, 8], [2.0, 0.0, 0.5], None, "cpu", lambda text: None)
    assert [(row.samples, row.batch_size, row.replacement) for row in rows][::2] == [
        (samples, size, False) for samples in (0, 32, 128) for size in (2, 8)
    ]
    assert all(row.grad_var is not None and row.b_simple_exact == row.grad_var / row.grad_sq_norm for row in rows)
    assert len({row.grad_sq_norm for row in rows}) == 3


# -- the slope, on made-up rows


def rows_of(errors: dict[int, float], replacement: bool, spread: float = 0.0) -> list[GradientRow]:
    base = dict.fromkeys(("samples", "epoch", "cosine", "cosine_spread", "grad_sq_norm"), 0.0)
    none = dict.fromkeys(("grad_var", "b_simple_exact", "b_simple", "b_simple_low", "b_simple_high"))
    return [
        GradientRow(
            **{**base, **none},  # type: ignore[arg-type]
            batch_size=size,
            replacement=replacement,
            draws=64,
            gradient_error=error,
            error_spread=spread * error,
        )
        for size, error in errors.items()
    ]


def test_the_slope_of_the_identity_is_minus_one() -> None:
    sizes = (1, 8, 64, 512)
    without = rows_of({size: 7.0 / size * (1 - size / 1000) for size in sizes}, False)
    with_ = rows_of({size: 7.0 / size for size in sizes}, True)
    for rows in (without, with_):
        found = error_slope(rows, 1000)
        assert found is not None
        assert found.mean == pytest.approx(-1.0, abs=1e-12)
        assert (found.low, found.high) == (pytest.approx(-1.0), pytest.approx(-1.0))
    # Without the factor 1 - B/N it would be another one.
    naive = error_slope([replace(row, replacement=True) for row in without], 1000)
    assert naive is not None
    assert naive.mean < -1.05
    assert error_slope(with_[:1], 1000) is None
    with pytest.raises(ValueError, match="all 512 samples"):
        error_slope(without, 512)


def test_the_slopes_interval_agrees_with_scipys_line_and_a_simulation() -> None:
    sizes, draw = [1, 2, 4, 8, 16], np.random.default_rng(0)
    noisy = {size: 3.0 / size * float(np.exp(draw.normal(0, 0.1))) for size in sizes}
    found = error_slope(rows_of(noisy, True, spread=0.1), 1000)
    line = stats.linregress(np.log(sizes), np.log(list(noisy.values())))
    assert found is not None
    assert found.mean == pytest.approx(line.slope)
    slopes = [
        stats.linregress(np.log(sizes), np.log(1 / np.array(sizes)) + draw.normal(0, 0.1, 5)).slope for _ in range(4000)
    ]
    assert found.half_width == pytest.approx(1.96 * np.std(slopes), rel=0.05)


# -- ratios


def inside(above: list[float], below: list[float], grid: np.ndarray) -> np.ndarray:
    """The ratios that a t-test doesn't refuse, by brute force."""
    accepted = [stats.ttest_1samp(np.array(above) - r * np.array(below), 0.0).pvalue > 0.05 for r in grid]
    return grid[np.array(accepted)]


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_ratio_holds_what_a_t_test_does_not_refuse(seed: int) -> None:
    draw = np.random.default_rng(seed)
    above, below = draw.normal(50, 10, 12), draw.normal(2, 0.8, 12)
    found = ratio_of_means(above.tolist(), below.tolist())
    kept = inside(above.tolist(), below.tolist(), np.linspace(0, 120, 24001))
    assert found.value == pytest.approx(above.mean() / below.mean())
    assert (found.low, found.high) == (pytest.approx(kept.min(), abs=0.01), pytest.approx(kept.max(), abs=0.01))


@pytest.mark.parametrize("seed", range(3))
def test_a_divisor_that_may_be_zero_leaves_a_lower_bound(seed: int) -> None:
    draw = np.random.default_rng(seed)
    above, below = draw.normal(50, 10, 12), draw.normal(0.3, 1.5, 12) + 0.2
    found = ratio_of_means(above.tolist(), below.tolist())
    assert found.high == math.inf
    kept = inside(above.tolist(), below.tolist(), np.linspace(0, 400, 40001))
    assert kept.max() == 400
    assert found.low == pytest.approx(kept.min(), abs=0.02)


def test_ratios_at_their_limits() -> None:
    assert ratio_of_means([3.0], [2.0]) == ratio_of_means([3.0], [2.0])
    single = ratio_of_means([3.0], [2.0])
    assert (single.value, single.low, single.high) == (1.5, None, None)
    nothing = ratio_of_means([5.0, 6.0, 5.5], [-1.0, -1.1, -0.9])
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0.0, math.inf)
    equal = ratio_of_means([4.0, 4.0, 4.0], [2.0, 2.0, 2.0])
    assert (equal.low, equal.high) == (2.0, 2.0)
    for wrong in (([1.0], [1.0, 2.0]), ([], []), ([math.nan, 1.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="a ratio takes"):
            ratio_of_means(*wrong)
