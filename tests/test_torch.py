"""bsexp.torch in loops of a user's own: what arrives is what bsexp's engine would have trained with."""

import io
import math
import re
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from bsexp import RunConfig, Training, make_schedule
from bsexp.errors import UsageError
from bsexp.schedules import Hyper, Progress
from bsexp.seeding import derive
from bsexp.torch import ScheduledBatchSampler, ScheduledRates, parts
from tests.conftest import ROOT
from tests.loops import LOADERS, Loop, Numbered

# Of workers: on one core, and from Python 3.12 where torch has threads already.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

N = 300
DIGITS = 1293  # what is left of digits to train on
GROWING = {"batch_size": 8, "lr": 0.5, "max_batch": 30, "milestones": [0.3, 0.6, 0.8], "factor": 2}


def growing(**changes: Any) -> ScheduledBatchSampler:
    given = {"epochs": 4.3, **GROWING, **changes}
    return ScheduledBatchSampler("growing-batch", N, **{k: v for k, v in given.items() if v is not None})


# ---- the same as the engine


CONFIGS = [
    RunConfig(schedule="growing-batch", epochs=2.3, max_batch=100),
    RunConfig(schedule="lr-decay", epochs=1.5, parameters={"shape": "cosine"}),
    RunConfig(schedule="one-cycle", epochs=1.0),
    RunConfig(schedule="batch-warmup", epochs=1.7, batch_size=64, warmup_epochs=0.4),
    RunConfig(schedule="late-switch", epochs=3.1, optimizer="adamw", parameters={"factor": 20}),
]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.schedule)
def trained(request: pytest.FixtureRequest) -> tuple[RunConfig, list[tuple[int, int, float, float]]]:
    """A run of bsexp's engine: samples before each update, batch size, rate, momentum."""
    config = request.param
    records = [record for record in Training(config, device="cpu") if type(record).__name__ == "StepRecord"]
    return config, [(r.samples - r.batch_size, r.batch_size, r.lr, r.momentum) for r in records]


@pytest.mark.parametrize("loading", LOADERS, ids=str)
def test_a_users_loop_has_the_engines_batches_and_rates(trained: Any, loading: dict[str, Any]) -> None:
    config, expected = trained
    adam = config.optimizer == "adamw"
    kind, options = (torch.optim.AdamW, {"lr": 1.0}) if adam else (torch.optim.SGD, {"lr": 1.0, "momentum": 0.9})
    loop = Loop(ScheduledBatchSampler(config, DIGITS), loading, kind, options).run()
    assert [row[:4] for row in loop.rows] == expected
    assert loop.sampler.samples == round(config.epochs * DIGITS)


@pytest.mark.parametrize("loading", LOADERS, ids=str)
def test_resumed_in_mid_epoch_everything_goes_on_to_the_same_weights(trained: Any, loading: dict[str, Any]) -> None:
    config, expected = trained
    adam = config.optimizer == "adamw"
    kind, options = (torch.optim.AdamW, {"lr": 1.0}) if adam else (torch.optim.SGD, {"lr": 1.0, "momentum": 0.9})
    whole = Loop(ScheduledBatchSampler(config, DIGITS), {}, kind, options).run()
    for stop in (len(expected) * 4 // 10, len(expected) - 1):
        first = Loop(ScheduledBatchSampler(config, DIGITS), loading, kind, options).run(stop)
        assert first.sampler.epoch % 1
        file = io.BytesIO()
        torch.save(first.state(), file)
        file.seek(0)
        second = Loop(ScheduledBatchSampler(config, DIGITS), loading, kind, options).load(torch.load(file)).run()
        assert first.rows + second.rows == whole.rows
        assert torch.equal(second.model.weight, whole.model.weight)


def test_a_schedule_may_be_given_by_name_or_as_a_function() -> None:
    config = RunConfig(schedule="growing-batch", epochs=2.0, max_batch=100)
    function = make_schedule("growing-batch", batch_size=16, lr=0.0125, max_batch=100)
    rows = Loop(ScheduledBatchSampler(config, DIGITS)).run().rows
    named = ScheduledBatchSampler("growing-batch", DIGITS, epochs=2, batch_size=16, lr=0.0125, max_batch=100)
    assert Loop(named).run().rows == rows
    assert Loop(ScheduledBatchSampler(function, DIGITS, total_samples=2 * DIGITS)).run().rows == rows


# ---- the samples


def test_each_epoch_is_a_permutation_drawn_from_seed_and_epoch() -> None:
    index = [number for row in Loop(growing(seed=5)).run().rows for number in row.index]
    orders = [
        torch.randperm(N, generator=torch.Generator().manual_seed(derive(5, "order", epoch))).tolist()
        for epoch in range(5)
    ]
    assert index == list(chain(*orders))[: round(4.3 * N)]
    assert Loop(growing(seed=6)).run(1).rows[0].index != tuple(index[:8])


@pytest.mark.parametrize("loading", LOADERS, ids=str)
def test_a_pass_that_is_left_early_goes_on_behind_the_last_batch_trained_on(loading: dict[str, Any]) -> None:
    whole = Loop(growing(), {}).run().rows
    loop = Loop(growing(), loading)
    for updates in (3, 1, 37, 5, 60, 2):
        loop.run(updates)
    assert loop.run().rows == whole


def test_a_look_at_a_batch_moves_nothing() -> None:
    loop = Loop(growing(), LOADERS[2])
    for _ in range(3):
        assert len(next(iter(loop.loader))[0]) == 8
    assert loop.run().rows == Loop(growing()).run().rows


def test_a_pass_has_the_batches_that_start_in_the_clocks_epoch() -> None:
    # By hand: 4.3 x 300 = 1290 samples. Milestones at 387, 774, 1032; sizes 8, 16, then 30 (the cap; 32 and 64 wanted).
    # Epoch 0: 38 batches of 8, to 304. Epoch 1: 11 of 8 to 392, then 13 of 16 to 600: the next starts in epoch 2.
    # Epoch 2: 11 of 16 to 776, 5 of 30 to 926 (the last starts at 896). Epoch 3: 10 of 30, to 1226: 1196 starts in it.
    # Left are 64 = 30 + 34: one whole batch, then 34 in two halves of 17, all of them in epoch 4.
    loop = Loop(growing())
    lengths, passes = [], []
    while not loop.sampler.finished:
        lengths.append(len(loop.loader))
        before = len(loop.rows)
        for batch in loop.loader:
            assert len(loop.loader) == lengths[-1]
            loop.update(batch)
        passes.append(len(loop.rows) - before)
    assert lengths == passes == [38, 24, 16, 10, 3]
    assert [row.batch_size for row in loop.rows][-4:] == [30, 30, 17, 17]
    assert (loop.sampler.samples, loop.sampler.epoch, loop.sampler.updates) == (1290, 4.3, 91)
    assert len(loop.loader) == 0


def test_the_length_of_a_pass_is_the_same_after_resuming_in_its_middle() -> None:
    first = Loop(growing()).run(45)
    second = Loop(growing()).load(first.state())
    assert len(second.loader) == 24
    assert len(list(second.loader)) == 24 - (45 - 38)


# ---- the optimizer


def test_a_schedule_that_moves_the_momentum_sets_that_of_sgd_and_the_first_beta_of_adam() -> None:
    for kind, options, extra in (
        (torch.optim.SGD, {"lr": 1.0, "momentum": 0.3}, {}),
        (torch.optim.AdamW, {"betas": (0.3, 0.95)}, {"optimizer": "adamw"}),
    ):
        sampler = ScheduledBatchSampler("one-cycle", N, epochs=1, batch_size=10, lr=0.2, **extra)
        loop = Loop(sampler, {}, kind, options).run(10)
        # the peak: the next update starts at f = 1/3, shortly behind .3
        (group,) = loop.optimizer.param_groups
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        u = (1 / 3 - 0.3) / 0.7
        assert momentum == pytest.approx(0.95 - 0.1 * (1 + math.cos(math.pi * u)) / 2)
        assert group["lr"] == pytest.approx(4e-6 * 0.2 + (0.2 - 4e-6 * 0.2) * (1 + math.cos(math.pi * u)) / 2, rel=1e-4)
        assert group.get("betas", (0, 0.95))[1] == 0.95
        assert loop.rows[0].momentum == 0.95


def test_weight_decay_and_an_untold_momentum_are_left_alone() -> None:
    loop = Loop(growing(), {}, torch.optim.SGD, {"lr": 1.0, "momentum": 0.4, "weight_decay": 0.03, "nesterov": True})
    loop.run()
    (group,) = loop.optimizer.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.4, 0.03)


def test_weight_decay_counts_samples_when_asked() -> None:
    sampler = growing(reference_batch=4)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, weight_decay=0.01)
    rates = ScheduledRates(optimizer, sampler, weight_decay_clock="samples")
    decays = {}
    while not sampler.finished:
        for index in sampler:
            decays[len(index)] = optimizer.param_groups[0]["weight_decay"]
            optimizer.step()
            rates.step(len(index))
    assert decays == {size: pytest.approx(0.01 * size / 4) for size in (8, 16, 30, 17)}


def test_a_run_config_says_what_weight_decay_is_counted_in() -> None:
    config = RunConfig(schedule="fixed-small", batch_size=32, reference_batch=16, weight_decay_clock="samples")
    options = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01}
    loop = Loop(ScheduledBatchSampler(config, N), {}, torch.optim.SGD, options)
    assert loop.optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.02)
    # Loaded into rates that were made when the optimizer had its grown weight decay already: not doubled twice.
    second = Loop(ScheduledBatchSampler(config, N), {}, torch.optim.SGD, options)
    second.optimizer.load_state_dict(loop.optimizer.state_dict())
    second.rates.detach()
    second.rates = ScheduledRates(second.optimizer, second.sampler)
    second.rates.load_state_dict(loop.rates.state_dict())
    assert second.optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.02)


def test_groups_keep_the_factors_that_were_given() -> None:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.05}], lr=0.5, momentum=0.9)
    with pytest.raises(UsageError, match=r"parameter groups with 0.05, 0.5; give lr_factors"):
        ScheduledRates(optimizer, growing())
    ScheduledRates(optimizer, growing(lr=0.2), lr_factors=[1, 0.1])
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, pytest.approx(0.02)]


def test_a_rate_that_is_a_tensor_is_written_into() -> None:
    rate = torch.tensor(0.1)
    sampler = ScheduledBatchSampler(
        "lr-decay", N, epochs=1, batch_size=100, lr=0.3, optimizer="adamw", milestones=[0.3]
    )
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=rate, foreach=False)
    rates = ScheduledRates(optimizer, sampler)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.3)
    optimizer.step()
    rates.step(100)
    assert rate.item() == pytest.approx(0.06)


def test_an_update_that_a_scaler_leaves_out_counts_like_any_other() -> None:
    sampler = growing()
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    rates = ScheduledRates(optimizer, sampler)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for number, index in zip(range(3), sampler, strict=False):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (math.inf if number == 1 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        rates.step(len(index), skipped=True)
    assert sampler.samples == 24
    assert weight.item() == 0.0  # 1 - .5 - .5: the one in the middle was left out


# ---- batches larger than memory


@pytest.mark.parametrize("largest", [1, 7, 10, 16, 100])
def test_parts_give_the_gradient_of_the_mean_over_the_whole_batch(largest: int) -> None:
    torch.manual_seed(0)
    model, features, classes = nn.Linear(4, 3).double(), torch.randn(37, 4).double(), torch.randint(3, (37,))
    nn.functional.cross_entropy(model(features), classes).backward()
    expected = model.weight.grad
    assert expected is not None
    model.weight.grad = None
    cut = parts(37, largest)
    for part, share in cut:
        (share * nn.functional.cross_entropy(model(features[part]), classes[part])).backward()
    assert torch.allclose(model.weight.grad, expected, rtol=1e-12, atol=0)
    sizes = [part.stop - part.start for part, _ in cut]
    assert (sum(sizes), len(sizes)) == (37, math.ceil(37 / largest))
    assert max(sizes) <= min(largest, min(sizes) + 1)


# ---- wrong use


def sampled(*arguments: Any, **options: Any) -> ScheduledBatchSampler:
    return ScheduledBatchSampler(*arguments, **options)


FIXED = {"batch_size": 8, "lr": 0.1}
REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("fixed-small", N), FIXED, "budget: none; give epochs or total_samples"),
    (("fixed-small", N), {**FIXED, "epochs": 1, "total_samples": 5}, "both epochs and total_samples"),
    (("fixed-small", N), {**FIXED, "epochs": -1}, "epochs: -1; give a number above 0"),
    (("fixed-small", N), {**FIXED, "epochs": math.nan}, "epochs: nan"),
    (("fixed-small", N), {**FIXED, "epochs": 1e-9}, "less than one sample of 300"),
    (("fixed-small", N), {**FIXED, "total_samples": 2.5}, "total_samples: 2.5; give a whole number from 1"),
    (("fixed-small", N), {**FIXED, "epochs": 1, "seed": -1}, "seed: -1"),
    (("fixed-small", 0), {**FIXED, "epochs": 1}, "num_train: 0; give the number of samples"),
    (("fixed-small", [1, 2]), {**FIXED, "epochs": 1}, r"len\(dataset\)"),
    (("fixed-small", N), {"epochs": 1, "lr": 0.1}, "batch_size: not given"),
    (("fixed-small", N), {"epochs": 1, "batch_size": 8}, "lr: not given"),
    (("growing-bach", N), {**FIXED, "epochs": 1}, "did you mean 'growing-batch'"),
    (("growing-batch", N), {**FIXED, "epochs": 1, "milestons": [0.5]}, "did you mean 'milestones'"),
    (("growing-batch", N), {**FIXED, "epochs": 1, "max_batch": 1000}, "at most num_train // 2 = 150"),
    ((17, N), {"epochs": 1}, "schedule: 17; give a name"),
    ((lambda progress: Hyper(8, 0.1, 0.9), N), {}, "budget: none"),
    ((lambda progress: Hyper(8, 0.1, 0.9), N), {"epochs": 1, "lr": 0.1}, "with lr; leave it out"),
    ((lambda progress: Hyper(1000, 0.1, 0.9), N), {"epochs": 1}, "batch size 1000 at 0.0000 of the budget"),
    ((RunConfig(schedule="fixed-small"), N), {"epochs": 1}, "with epochs; leave it out: a RunConfig says it already"),
]


@pytest.mark.parametrize(("arguments", "options", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_a_sampler_without_a_plan_is_refused_in_one_line(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as error:
        sampled(*arguments, **options)
    assert "\n" not in str(error.value)


def test_an_optimizer_that_the_schedule_does_not_suit_is_refused() -> None:
    weight = [nn.Parameter(torch.ones(1))]
    with pytest.raises(UsageError, match="AdamW with a schedule made for sgd; give the schedule optimizer='adamw'"):
        ScheduledRates(torch.optim.AdamW(weight), growing())
    with pytest.raises(UsageError, match="SGD with a schedule made for adamw"):
        ScheduledRates(torch.optim.SGD(weight, lr=1.0), growing(optimizer="adamw"))
    with pytest.raises(UsageError, match=r"momentum: 0 in SGD, 0.9 by the schedule; make them the same"):
        ScheduledRates(torch.optim.SGD(weight, lr=1.0), growing(momentum=0.9))
    cycle = ScheduledBatchSampler("one-cycle", N, epochs=1, batch_size=8, lr=0.1)
    with pytest.raises(UsageError, match="momentum: Adagrad has none"):
        ScheduledRates(torch.optim.Adagrad(weight), cycle)
    ScheduledRates(torch.optim.Adagrad(weight), growing())
    with pytest.raises(UsageError, match="weight_decay_clock: 'epoch'"):
        ScheduledRates(torch.optim.SGD(weight, lr=1.0), growing(), weight_decay_clock="epoch")
    for factors, said in (([1, 2], "2 for 1 parameter groups"), ([-1], "finite numbers from 0")):
        with pytest.raises(UsageError, match=said):
            ScheduledRates(torch.optim.SGD(weight, lr=1.0), growing(), lr_factors=factors)


def test_a_clock_that_is_not_told_the_truth_is_refused() -> None:
    loop = Loop(growing())
    loop.optimizer.step()
    with pytest.raises(UsageError, match=r"optimizer.step: twice at sample 0; call rates.step"):
        loop.optimizer.step()
    with pytest.raises(UsageError, match=r"7 samples where the batch has 8 \(at sample 0\)"):
        loop.rates.step(7)
    loop.rates.step(8)
    with pytest.raises(UsageError, match=r"rates.step: without an update \(at sample 8\)"):
        loop.rates.step(8)
    assert loop.sampler.samples == 8


def test_rates_that_somebody_else_changes_are_refused() -> None:
    loop = Loop(growing())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.9)
    loop.run(1)
    scheduler.step()
    with pytest.raises(UsageError, match=r"lr: 0.45 in the optimizer, 0.5 by the schedule \(at sample 8\)"):
        loop.run(1)
    loop = Loop(growing()).run(1)
    loop.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(UsageError, match="2 parameter groups, 1 when the rates were made"):
        loop.optimizer.step()


def test_going_on_behind_the_budgets_end_is_refused() -> None:
    loop = Loop(growing()).run()
    with pytest.raises(UsageError, match=r"sampler: after the budget of 1,290 samples; end the loop there"):
        iter(loop.loader)
    with pytest.raises(UsageError, match=r"optimizer.step: after the budget"):
        loop.optimizer.step()
    with pytest.raises(UsageError, match=r"rates.step: after the budget"):
        loop.rates.step(8, skipped=True)
    finished = Loop(growing()).load(loop.state())
    assert finished.sampler.finished


def test_a_loader_that_is_read_again_and_again_without_a_clock_is_refused() -> None:
    sampler = growing()
    loader = DataLoader(Numbered(N), batch_sampler=sampler)
    for _ in range(2):
        assert len(list(loader)) == 38
    with pytest.raises(UsageError, match="read again and again while the clock stands at sample 0"):
        iter(loader)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match="in 2 processes, each of which would train on the same batches"):
        iter(growing())


def test_states_of_another_plan_seed_or_time_are_refused() -> None:
    loop = Loop(growing()).run(5)
    state = loop.state()
    for other, said in (
        (growing(seed=1), "seed 0, here 1"),
        (growing(epochs=4.0), "total_samples 1290, here 1200"),
        (growing(max_batch=20), "batch_sizes"),
    ):
        with pytest.raises(UsageError, match=said):
            other.load_state_dict(state["sampler"])
    with pytest.raises(UsageError, match=r"lr 0\.5, here 0\.25"):
        Loop(growing(lr=0.25)).rates.load_state_dict(state["rates"])
    fresh = Loop(growing())
    fresh.sampler.load_state_dict(loop.run(2).sampler.state_dict())
    with pytest.raises(UsageError, match="sampler at update 7, rates at 5; load states that were saved together"):
        fresh.rates.load_state_dict(state["rates"])
    with pytest.raises(UsageError, match="the state is damaged"):
        growing().load_state_dict({**state["sampler"], "samples": 41})


def test_a_schedule_is_asked_in_samples() -> None:
    def schedule(progress: Progress) -> Hyper:
        return Hyper(10 if progress.samples < 100 else 25, 0.5, 0.9)

    loop = Loop(ScheduledBatchSampler(schedule, N, epochs=1)).run()
    assert [row.batch_size for row in loop.rows] == [10] * 10 + [25] * 8


# ---- the README's example


def test_the_readmes_loop_runs_and_grows_its_batches() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Taking it home")[2]
    source = text.partition("```python\n")[2].partition("```")[0]
    # What turns an ordinary loop into this one: ten lines at most.
    assert len(re.findall(r"^.*(?:Scheduled|sampler|rates|loader).*$", source, re.MULTILINE)) <= 10
    sizes: list[int] = []
    noted = source.replace(
        "        optimizer.step()\n", "        optimizer.step()\n        sizes.append(len(labels))\n"
    )
    space: dict[str, Any] = {"sizes": sizes}
    exec(compile(noted, "README.md", "exec"), space)
    # 12,000 samples: 16 up to 3,600, 80 up to 7,200, then the cap of 200 (400 and 2,000 are wanted) with falling rates.
    # 225 x 16 = 3,600; 45 x 80 = 7,200; 4,800 = 24 x 200.
    assert sizes == [16] * 225 + [80] * 45 + [200] * 24
    assert sum(sizes) == space["sampler"].total_samples
    assert space["optimizer"].param_groups[0]["lr"] == pytest.approx(0.1 * 200 / 2000)
