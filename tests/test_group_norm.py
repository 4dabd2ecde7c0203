"""Group norm in passes: torch's own group norm in double precision, whatever way the input takes."""

import pytest
import torch
from torch import Tensor, nn

from bsexp.models import group_norm
from bsexp.models.group_norm import GroupNorm, _normalise

# Channels, groups, batch, side: passes, passes, the other order of memory, torch's own kernel (groups of 8).
WAYS = [(8, 4, 90, 14), (32, 8, 180, 7), (16, 8, 3, 5), (64, 8, 3, 5)]


def norms(channels: int, groups: int, dtype: torch.dtype) -> tuple[GroupNorm, nn.GroupNorm]:
    """Ours in `dtype` and torch's in double precision, with the same random scales and shifts."""
    draw = torch.Generator().manual_seed(0)
    own, known = GroupNorm(groups, channels).to(dtype), nn.GroupNorm(groups, channels).double()
    for mine, theirs in zip(own.parameters(), known.parameters(), strict=True):
        values = torch.randn(channels, generator=draw, dtype=torch.float64)
        mine.data.copy_(values)
        theirs.data.copy_(mine)
    return own, known


def images(channels: int, batch: int, side: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, side, side + 1, generator=draw, dtype=dtype) * 3 + 2
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "groups", "batch", "side"), WAYS)
@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_outputs_and_gradients_are_those_of_torch_in_double_precision(
    channels: int, groups: int, batch: int, side: int, dtype: torch.dtype, accuracy: float
) -> None:
    own, known = norms(channels, groups, dtype)
    x = images(channels, batch, side, dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    slope = images(channels, batch, side, dtype).flip(0)
    out, expected = own(x), known(exact)
    torch.testing.assert_close(out.double(), expected, rtol=accuracy, atol=accuracy)
    with torch.inference_mode():
        torch.testing.assert_close(own(x).double(), expected, rtol=accuracy, atol=accuracy)
    found = torch.autograd.grad(out, (x, own.weight, own.bias), slope)
    wanted = torch.autograd.grad(expected, (exact, known.weight, known.bias), slope.double())
    for mine, theirs in zip(found, wanted, strict=True):
        size = float(theirs.abs().max())
        torch.testing.assert_close(mine.double(), theirs, rtol=accuracy, atol=accuracy * size)


@pytest.mark.parametrize(("channels", "groups", "batch", "side"), WAYS)
def test_the_order_of_memory_stays_channels_last(channels: int, groups: int, batch: int, side: int) -> None:
    own, _ = norms(channels, groups, torch.float32)
    out = own(images(channels, batch, side, torch.float32))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_first_two_cases_take_the_passes_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def noted(*arguments: object) -> tuple[Tensor, Tensor, Tensor]:
        taken.append(arguments)
        return _normalise(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(group_norm, "_normalise", noted)
    counts = []
    for channels, groups, batch, side in WAYS:
        own, _ = norms(channels, groups, torch.float32)
        own(images(channels, batch, side, torch.float32))
        counts.append(len(taken))
    assert counts == [1, 2, 2, 2]


def test_derivatives_of_first_and_second_order_agree_with_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm, "PASSES_FROM", 0)
    own, _ = norms(4, 2, torch.float64)
    x = images(4, 2, 3).requires_grad_()

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(own, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(normed, (x, own.weight, own.bias))
    assert torch.autograd.gradgradcheck(normed, (x, own.weight, own.bias))


# Few rules for operations in place; outside this test, single samples are too small for the passes anyway.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_single_samples_by_torch_func_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm, "PASSES_FROM", 0)
    own, known = norms(4, 2, torch.float64)
    x = images(4, 3, 5)
    values = {name: parameter.detach() for name, parameter in own.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        image = image.unsqueeze(0).contiguous(memory_format=torch.channels_last)
        return torch.func.functional_call(own, values, (image,)).pow(3).sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, x)
    for k in range(3):
        known.zero_grad()
        known(x[k : k + 1]).pow(3).sum().backward()
        for name, parameter in known.named_parameters():
            torch.testing.assert_close(found[name][k], parameter.grad, rtol=1e-12, atol=1e-10)


def test_a_mean_far_from_zero_costs_no_more_accuracy_than_in_torchs_kernel() -> None:
    own, known = norms(8, 4, torch.float32)
    torchs = nn.GroupNorm(4, 8)
    torchs.load_state_dict(own.state_dict())
    x = images(8, 90, 14, torch.float32) / 3 + 30
    expected = known(x.double())
    mine, theirs = (float((norm(x).double() - expected).detach().abs().max()) for norm in (own, torchs))
    assert mine < 2 * theirs


def test_types_mixed_by_autocast_are_left_to_torch() -> None:
    own, _ = norms(8, 4, torch.float32)
    torchs = nn.GroupNorm(4, 8)
    torchs.load_state_dict(own.state_dict())
    x = images(8, 90, 14, torch.float32).bfloat16()
    torch.testing.assert_close(own(x), torchs(x), rtol=0, atol=0)
