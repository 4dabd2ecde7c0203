"""Signals against slow obvious computations: per-sample gradients by autograd, and gradients with a known truth."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bsexp.signals.barrier import loss_barrier
from bsexp.signals.cabs import cabs_batch
from bsexp.signals.calibration import calibration_error
from bsexp.signals.cosine import batch_for_cosine, expected_cosine, half_batch_cosine
from bsexp.signals.disagreement import disagreement
from bsexp.signals.diversity import diversity_batch, gradient_diversity
from bsexp.signals.gain import gain
from bsexp.signals.noise import Noise, unbiased_noise, within_epoch
from bsexp.signals.norm_test import norm_test_batch
from bsexp.signals.sharpness import lr_sharpness, stability_edge
from bsexp.signals.simple import b_simple
from bsexp.signals.smoothing import Average, half_life


@pytest.fixture(scope="module")
def gradients() -> Tensor:
    """(64, P): the gradient of each of 64 samples for a small network, one by one."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    inputs = torch.randn(64, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (64,), generator=generator)

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, weights, (x[None],)), y[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels)
    return torch.cat([part.flatten(1) for part in found.values()], 1)


def estimate(batch: Tensor, sizes: list[int]) -> Noise:
    """What a batch of samples' gradients (B, P), cut into parts, says."""
    parts = [part.mean(0) for part in batch.split(sizes)]
    of_parts = sum(size * float(part @ part) for size, part in zip(sizes, parts, strict=True)) / len(batch)
    whole = batch.mean(0)
    return unbiased_noise(of_parts, float(whole @ whole), len(sizes), len(batch))


def mean_noise(estimates: list[Noise]) -> Noise:
    return Noise(*(math.fsum(values) / len(estimates) for values in zip(*estimates, strict=True)))


def truth(gradients: Tensor) -> Noise:
    mean = gradients.mean(0)
    return Noise(float(mean @ mean), float((gradients - mean).square().sum()) / (len(gradients) - 1))


@pytest.mark.parametrize("sizes", [[4] * 4, [1] * 16, [8, 8], [3, 5, 8], [1, 15]], ids=str)
def test_noise_is_unbiased_for_gradients_of_known_mean_and_covariance(sizes: list[int]) -> None:
    """8,000 batches of 16 from N(G, diag(1, 4, 9)), |G|^2 = 5, tr(Sigma) = 14."""
    generator = torch.Generator().manual_seed(1)
    mean, spread = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    draws = mean + spread * torch.randn(8000, 16, 3, generator=generator, dtype=torch.float64)
    estimates = [estimate(batch, sizes) for batch in draws]
    for name, expected in (("grad_sq_norm", 5.0), ("grad_var", 14.0)):
        values = torch.tensor([getattr(noise, name) for noise in estimates])
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - expected) < 4 * error
        assert error < 0.03 * expected  # so that half or twice the truth would be seen


def test_parts_of_one_sample_give_the_samples_own_covariance(gradients: Tensor) -> None:
    # The whole set as one batch, each sample a part: the formula is then the definition, less its bias.
    noise = estimate(gradients, [1] * 64)
    exact = truth(gradients)
    assert noise.grad_var == pytest.approx(exact.grad_var, rel=1e-12)
    assert within_epoch(noise, 64).grad_sq_norm == pytest.approx(exact.grad_sq_norm, rel=1e-12)


def test_without_replacement_the_training_sets_own_gradient_is_found(gradients: Tensor) -> None:
    """All 12,000 batches of 16 that 3,000 epochs of 64 samples are cut into."""
    generator = torch.Generator().manual_seed(2)
    estimates = []
    for _ in range(3000):
        order = torch.randperm(64, generator=generator)
        estimates += [estimate(gradients[batch], [4] * 4) for batch in order.split(16)]
    exact, found = truth(gradients), mean_noise(estimates)
    error = torch.tensor([noise.grad_sq_norm for noise in estimates]).std().item() / math.sqrt(len(estimates))
    assert found.grad_var == pytest.approx(exact.grad_var, rel=0.01)
    corrected = within_epoch(found, 64)
    assert abs(corrected.grad_sq_norm - exact.grad_sq_norm) < 4 * error
    assert exact.grad_sq_norm - found.grad_sq_norm > 8 * error  # without the correction it is too small
    assert b_simple(corrected) == pytest.approx(exact.grad_var / exact.grad_sq_norm, rel=0.03)


def test_diversity_and_the_norm_test_are_the_noise_scale(gradients: Tensor) -> None:
    exact = truth(gradients)
    total = gradients.sum(0)
    diversity = gradient_diversity(float(gradients.square().sum()), float(total @ total))
    # With the covariance divided by N: N D = 1 + b.
    b = exact.grad_var * 63 / 64 / exact.grad_sq_norm
    assert 64 * diversity == pytest.approx(1 + b, rel=1e-12)
    assert diversity_batch(b, 2.0) == pytest.approx(2 * 64 * diversity, rel=1e-12)
    batch = norm_test_batch(b_simple(exact), 0.5)
    assert exact.grad_var / batch == pytest.approx(0.25 * exact.grad_sq_norm, rel=1e-12)


def test_the_cosine_of_halves_is_the_vectors_own_and_what_the_noise_scale_expects() -> None:
    generator = torch.Generator().manual_seed(3)
    # 400 weights of which each has the mean .25 and the variance 1: |G|^2 = 25, tr(Sigma) = 400, b = 16.
    draws = 0.25 + torch.randn(2000, 2, 16, 400, generator=generator)
    first, second = draws.mean(2).unbind(1)
    cosines = nn.functional.cosine_similarity(first, second)
    whole = (first + second) / 2
    for k in range(3):
        norms = [float(vectors[k].square().sum()) for vectors in (first, second, whole)]
        assert half_batch_cosine(*norms) == pytest.approx(float(cosines[k]), abs=1e-5)
    # B = 32: 1 / (1 + 2 * 16 / 32).
    assert expected_cosine(16.0, 32) == 0.5
    assert float(cosines.mean()) == pytest.approx(0.5, abs=0.01)
    assert batch_for_cosine(16.0, 0.5) == 32
    assert expected_cosine(16.0, round(batch_for_cosine(16.0, 0.8))) == pytest.approx(0.8)


def test_the_gain_is_a_ratio_of_expected_squared_gradients() -> None:
    # E|g_16|^2 = 3 + 80/16 = 8 and E|g_64|^2 = 3 + 80/64 = 4.25.
    assert gain(3.0, 80.0, 64, 16) == pytest.approx(8 / 4.25)
    assert gain(3.0, 0.0, 64, 16) == 1
    assert gain(0.0, 80.0, 64, 16) == pytest.approx(4)
    assert gain(3.0, 80.0, 16, 16) == 1


def test_cabs_by_hand() -> None:
    # .05 * 3,200 / (2.1 - .1)
    assert cabs_batch(0.05, 3200.0, 2.1, 0.1) == pytest.approx(80)


def test_the_barrier_of_a_double_well_is_its_hill_above_the_line_between_the_wells() -> None:
    """(x^2 - 1)^2 + x/4 from -1 to 1: the line runs from -1/4 to 1/4, the hill stands 1 above it at x = 0."""
    for points in (3, 11, 101):
        places = [-1 + 2 * k / (points - 1) for k in range(points)]
        assert loss_barrier([(x * x - 1) ** 2 + x / 4 for x in places]) == pytest.approx(1.0)
    # Four points miss the top: they stand at x = -1/3 and 1/3, where (1/9 - 1)^2 = 64/81.
    assert loss_barrier([(x * x - 1) ** 2 + x / 4 for x in (-1, -1 / 3, 1 / 3, 1)]) == pytest.approx(64 / 81)


def test_there_is_no_barrier_down_a_slope_or_through_a_valley() -> None:
    assert loss_barrier([3.0, 2.0, 1.0]) == 0
    assert loss_barrier([1.0, 0.2, 1.0]) == 0
    assert loss_barrier([1.0, math.inf, 1.0]) == math.inf
    assert loss_barrier([1.0, math.nan, 1.0]) == math.inf


def test_disagreement_counts_examples_and_knows_no_truth() -> None:
    assert disagreement([0, 1, 2, 3], [0, 1, 2, 3]) == 0
    assert disagreement([0, 1, 2, 3, 4], [0, 1, 9, 9, 4]) == pytest.approx(0.4)
    # At most the sum of the errors: here 2 of 5 and 1 of 5 wrong, on different examples.
    truth, one, two = [0] * 5, [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]
    wrong = [disagreement(truth, each) for each in (one, two)]
    assert disagreement(one, two) == pytest.approx(sum(wrong))


def test_the_calibration_error_is_that_of_bins_filled_one_by_one() -> None:
    generator = torch.Generator().manual_seed(4)
    confidences = torch.rand(500, generator=generator).double()
    confidences[:3] = torch.tensor([0.0, 1.0, 1 / 15])  # the edges: first bin, last bin, first bin
    right = torch.rand(500, generator=generator).double() < confidences**2
    expected = 0.0
    for k in range(15):
        inside = (confidences > k / 15) & (confidences <= (k + 1) / 15)
        inside |= (confidences == 0) & (k == 0)
        if inside.any():
            gap = right[inside].double().mean() - confidences[inside].mean()
            expected += float(inside.double().mean() * gap.abs())
    assert calibration_error(confidences.tolist(), right.tolist()) == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected < 0.3
    # 1,000 predictions with .8 of which 600 are right.
    assert calibration_error([0.8] * 1000, [k < 600 for k in range(1000)]) == pytest.approx(0.2)


def test_beyond_the_edge_gradient_descent_with_momentum_grows_and_below_it_shrinks() -> None:
    for momentum in (0.0, 0.5, 0.9):
        for share, grows in ((0.99, False), (1.01, True)):
            weight = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
            curvature = 3.0
            rate = share * stability_edge(momentum) / curvature
            assert lr_sharpness(curvature, rate) == pytest.approx(share * 2 * (1 + momentum))
            optimizer = torch.optim.SGD([weight], lr=rate, momentum=momentum)
            for _ in range(4000):
                optimizer.zero_grad()
                (curvature * weight.square().sum() / 2).backward()
                optimizer.step()
            assert (abs(float(weight.detach())) > 1) == grows


def test_an_average_forgets_half_in_its_half_life_whatever_the_steps() -> None:
    one = Average().follow(4.0, 100, 50.0)
    many = Average()
    for _ in range(100):
        many = many.follow(4.0, 1, 50.0)
    assert many.value == pytest.approx(4.0)
    assert many.weight == pytest.approx(one.weight)  # 1 - .5^2
    assert one.weight == pytest.approx(0.75)
    # After a half-life at 10: (.375 * 4 + .5 * 10) / (.375 + .5)
    assert one.follow(10.0, 50, 50.0).value == pytest.approx((0.375 * 4 + 0.5 * 10) / 0.875)
    assert math.isnan(Average().value)
    assert [half_life(samples, 1000) for samples in (1, 200, 1000)] == [10.0, 10.0, 50.0]


def test_what_has_no_value_is_nan_and_never_clamped() -> None:
    assert unbiased_noise(10.0, 1.0, 2, 8) == (-8.0, 72.0)
    assert math.isnan(b_simple(Noise(-8.0, 72.0)))
    assert math.isnan(b_simple(Noise(0.0, 72.0)))
    assert math.isnan(b_simple(Noise(math.nan, 72.0)))
    assert math.isnan(expected_cosine(math.nan, 32))


@pytest.mark.parametrize(
    "call",
    [
        lambda: unbiased_noise(1.0, 1.0, 1, 8),
        lambda: unbiased_noise(1.0, 1.0, 9, 8),
        lambda: unbiased_noise(-1.0, 1.0, 2, 8),
        lambda: within_epoch(Noise(1.0, 1.0), 1),
        lambda: Average().follow(1.0, 0, 10.0),
        lambda: Average().follow(1.0, 10, 0.0),
        lambda: half_batch_cosine(0.0, 1.0, 0.25),
        lambda: expected_cosine(3.0, 1),
        lambda: batch_for_cosine(3.0, 1.0),
        lambda: gradient_diversity(1.0, 0.0),
        lambda: diversity_batch(1.0, 0.0),
        lambda: norm_test_batch(1.0, 0.0),
        lambda: cabs_batch(0.1, 1.0, 0.5, 0.5),
        lambda: cabs_batch(0.0, 1.0, 0.5),
        lambda: gain(-1.0, 2.0, 2, 1),
        lambda: gain(0.0, 0.0, 2, 1),
        lambda: loss_barrier([1.0, 2.0]),
        lambda: loss_barrier([math.inf, 2.0, 1.0]),
        lambda: disagreement([], []),
        lambda: disagreement([1], [1, 2]),
        lambda: calibration_error([], []),
        lambda: calibration_error([0.5], [True, False]),
        lambda: calibration_error([1.1], [True]),
        lambda: calibration_error([0.5], [True], 0),
        lambda: lr_sharpness(math.nan, 0.1),
        lambda: lr_sharpness(3.0, -0.1),
        lambda: stability_edge(1.0),
    ],
)
def test_what_lies_outside_a_signals_validity_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        call()  # type: ignore[operator]
