"""Sharpness against a dense Hessian, and barriers between networks: on tiny networks, and on one that was trained."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bsexp import RunConfig, Training
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.engine.hessian import hessian_product, largest_eigenvalue
from bsexp.engine.landscape import Landscape
from bsexp.errors import UsageError
from bsexp.records import EvalRow

SMALL: dict[str, Any] = {"schedule": "fixed-small", "epochs": 2.0, "train_size": 300, "label_noise": 0.2, "evals": 1}


def dense_hessian(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """(P, P), by torch.func, from one flat vector of weights."""
    names, shapes = zip(*((name, weight.shape) for name, weight in model.named_parameters()), strict=True)

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split([shape.numel() for shape in shapes])
        weights = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, weights, (inputs,)), labels)

    flat = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    return torch.func.jacrev(torch.func.grad(loss))(flat)


def tiny() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    inputs, labels = torch.randn(40, 1, 6, 6, dtype=torch.float64), torch.randint(3, (40,))
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 3)).double(), inputs, labels


def parts(model: nn.Module, inputs: Tensor, labels: Tensor, sizes: list[int]) -> list[Any]:
    """The mean loss as a sum of parts."""

    def share(x: Tensor, y: Tensor) -> Any:
        return lambda: nn.functional.cross_entropy(model(x), y, reduction="sum") / len(labels)

    return [share(x, y) for x, y in zip(inputs.split(sizes), labels.split(sizes), strict=True)]


@pytest.mark.parametrize("sizes", [[40], [25, 15]], ids=str)
def test_lambda_max_and_products_are_those_of_the_dense_hessian(sizes: list[int]) -> None:
    model, inputs, labels = tiny()
    exact = dense_hessian(model, inputs, labels)
    weights = list(model.parameters())
    pieces = parts(model, inputs, labels, sizes)
    direction = torch.randn(len(exact), dtype=torch.float64)
    torch.testing.assert_close(hessian_product(pieces, weights, direction), exact @ direction, rtol=1e-9, atol=1e-11)
    eigenvalues = torch.linalg.eigvalsh(exact)
    assert largest_eigenvalue(pieces, weights, 1e-8) == pytest.approx(float(eigenvalues[-1]), rel=1e-6)
    assert largest_eigenvalue(pieces, weights) == pytest.approx(float(eigenvalues[-1]), rel=1e-3)
    assert eigenvalues[-1] > 1.02 * eigenvalues[-2]  # a wrong one would be seen


def test_it_is_the_largest_eigenvalue_not_the_one_of_largest_size() -> None:
    weights = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[0.5]], requires_grad=True)]

    def loss() -> Tensor:  # curvatures 2, 3 and -8
        return weights[0][0] ** 2 + 1.5 * weights[0][1] ** 2 - 4 * weights[1].square().sum()

    assert largest_eigenvalue([loss], weights) == pytest.approx(3.0)


def test_weights_that_the_loss_does_not_bend_along_count_as_flat() -> None:
    bent, straight, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    assert largest_eigenvalue(
        [lambda: 2 * bent.square().sum() + straight.sum()], [bent, straight, unused]
    ) == pytest.approx(4)


def test_where_there_is_no_second_derivative_nothing_is_said() -> None:
    one = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="1 weight"):
        largest_eigenvalue([lambda: one.square().sum()], [one])
    several = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="finite"):
        largest_eigenvalue([lambda: (several * float("inf")).square().sum()], [several])


def trained(digits: Images, **options: Any) -> tuple[Landscape, dict[str, Tensor], EvalRow]:
    config = RunConfig(**{**SMALL, **options})
    data = prepare(config, digits)
    run = Training(config, data=data, device="cpu")
    last = [record for record in run if isinstance(record, EvalRow)][-1]
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    return Landscape(config, data, "cpu"), weights, last


def test_the_landscape_is_that_of_the_runs_own_training_loss(digits: Images) -> None:
    landscape, weights, last = trained(digits, dropout=0.3)
    assert landscape.loss(weights) == last.train_loss


def test_a_networks_sharpness_is_that_of_its_dense_hessian(digits: Images) -> None:
    """A linear network on 8x8 images: 650 weights, by torch.func on all images at once, beside chunks of 256."""
    landscape, weights, _ = trained(digits, model="tests.test_landscape:linear", train_size=300)
    config = landscape.config
    data = prepare(config, digits)
    images = (data.train.images.double() - data.mean[0]) / data.std[0]
    model = linear((1, 8, 8), 10).double()
    model.load_state_dict({name: tensor.double() for name, tensor in weights.items()})
    exact = dense_hessian(model, images.permute(0, 3, 1, 2), data.train.labels)
    assert landscape.sharpness(weights) == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=2e-3)
    # Looking at it has changed nothing of it.
    assert landscape.loss(weights) == landscape.loss(weights)


def linear(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


def test_the_barrier_between_two_orders_grows_with_the_way_they_went_alone(digits: Images) -> None:
    options: dict[str, Any] = {"epochs": 40.0, "lr": 0.05}
    landscape, plain, _ = trained(digits, **options)
    ends = [trained(digits, **options, order=1, order_from=first)[1] for first in (0, 39)]
    early, late = (landscape.barrier(plain, end) for end in ends)
    assert landscape.barrier(plain, plain) == pytest.approx(0.0, abs=1e-6)
    assert 0 <= late < 0.2 * early
    # By hand: the middle one of eleven points stands above the mean of the ends by that much at least.
    middle = {name: (weight + ends[0][name]) / 2 for name, weight in plain.items()}
    above = landscape.loss(middle) - (landscape.loss(plain) + landscape.loss(ends[0])) / 2
    assert 0 < above <= early + 1e-6
    assert landscape.barrier(ends[0], plain) == pytest.approx(early, rel=1e-3)


def test_barriers_of_batch_statistics_and_weights_of_another_network_are_refused(digits: Images) -> None:
    config = RunConfig(**{**SMALL, "model": "cnn-small", "norm": "batch"})
    landscape = Landscape(config, prepare(config, digits), "cpu")
    weights = landscape.model.state_dict()
    with pytest.raises(UsageError, match="batch normalisation"):
        landscape.barrier(weights, weights)
    with pytest.raises(UsageError, match="not those of cnn-small"):
        landscape.sharpness({"head.weight": torch.zeros(2, 2)})
