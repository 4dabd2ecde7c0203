"""How a budget of samples is cut into updates, and what a schedule may not ask for."""

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsexp.errors import UsageError
from bsexp.schedules import Hyper, Progress, consult, noise_scale, share, simulate


def sizes_of(wanted: list[int] | int, total: int) -> list[int]:
    """The sizes of the updates of a schedule that wants `wanted[step]` (the last one from there on)."""

    def schedule(progress: Progress) -> Hyper:
        size = wanted if isinstance(wanted, int) else wanted[min(progress.step, len(wanted) - 1)]
        return Hyper(size, 0.1, 0.9)

    return [update.batch_size for update in simulate(schedule, total_samples=total, num_train=10**6)]


@pytest.mark.parametrize(
    ("wanted", "total", "sizes"),
    [
        (10, 30, [10, 10, 10]),
        (10, 34, [10, 10, 7, 7]),
        (10, 31, [10, 10, 6, 5]),  # the larger half first
        (10, 39, [10, 10, 10, 9]),  # 19 left: 10 and 9
        (10, 11, [6, 5]),
        (10, 10, [10]),
        (10, 3, [3]),
        (1, 3, [1, 1, 1]),
        ([10, 10, 100], 35, [10, 10, 15]),  # what is left is less than what is wanted: one update takes it
        ([10, 10, 2, 2], 36, [10, 10, 2, 2, 2, 2, 2, 2, 2, 2]),
        ([10, 10, 2], 35, [10, 10, *[2] * 6, 2, 1]),
        ([10, 2], 15, [8, 7]),  # once halved, the second half is the last update, whatever is wanted there
        ([10, 1000], 15, [8, 7]),
    ],
)
def test_the_last_two_updates_share_what_remains(wanted: list[int] | int, total: int, sizes: list[int]) -> None:
    assert sizes_of(wanted, total) == sizes


@given(wanted=st.integers(1, 500), total=st.integers(1, 5000))
def test_sharing_changes_neither_the_budget_nor_the_number_of_updates(wanted: int, total: int) -> None:
    sizes = sizes_of(wanted, total)
    assert sum(sizes) == total
    assert len(sizes) == math.ceil(total / wanted)
    assert sizes[:-2] == [wanted] * len(sizes[:-2])
    if len(sizes) > 1:
        assert 0 <= sizes[-2] - sizes[-1] <= max(1, wanted - sizes[-1])
        assert 2 * sizes[-1] >= wanted


@given(wanted=st.lists(st.integers(1, 500), min_size=1, max_size=30), total=st.integers(1, 5000))
def test_no_update_is_smaller_than_half_of_what_was_wanted_when_the_rest_was_shared(
    wanted: list[int], total: int
) -> None:
    sizes = sizes_of(wanted, total)
    asked = [wanted[min(k, len(wanted) - 1)] for k in range(len(sizes))]
    assert sum(sizes) == total
    assert sizes[:-2] == asked[:-2]
    if len(sizes) > 1:
        assert 2 * min(sizes[-2:]) >= asked[-2]


@given(wanted=st.lists(st.integers(1, 500), min_size=1, max_size=30).map(sorted), total=st.integers(1, 5000))
def test_a_growing_batch_needs_as_many_updates_as_without_sharing(wanted: list[int], total: int) -> None:
    def cut_short() -> Iterator[int]:
        done = 0
        for k in range(total):
            if done == total:
                return
            done += min(wanted[min(k, len(wanted) - 1)], total - done)
            yield k

    assert len(sizes_of(wanted, total)) == len(list(cut_short()))


def test_share_says_when_the_next_update_is_the_last() -> None:
    assert share(100, 300, False) == (100, False)
    assert share(100, 200, False) == (100, False)  # two whole ones; the next call finds 100 and closes
    assert share(100, 199, False) == (100, True)
    assert share(100, 151, False) == (76, True)
    assert share(100, 101, False) == (51, True)
    assert share(100, 100, False) == (100, True)
    assert share(100, 7, False) == (7, True)
    assert share(5, 75, True) == (75, True)


def test_an_update_says_where_it_starts_in_samples_and_epochs() -> None:
    def schedule(progress: Progress) -> Hyper:
        return Hyper(40, 1 - progress.fraction, 0.5)

    updates = list(simulate(schedule, total_samples=160, num_train=80))
    assert [tuple(update) for update in updates] == [
        (0, 0, 0.0, 40, 1.0, 0.5),
        (1, 40, 0.5, 40, 0.75, 0.5),
        (2, 80, 1.0, 40, 0.5, 0.5),
        (3, 120, 1.5, 40, 0.25, 0.5),
    ]


def test_the_closing_update_uses_the_values_of_where_it_starts() -> None:
    updates = list(simulate(lambda p: Hyper(10, 1 + p.samples, 0.0), total_samples=16, num_train=100))
    assert [(u.batch_size, u.lr) for u in updates] == [(8, 1), (8, 9)]


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        (Hyper(0, 0.1, 0.9), ["batch size 0", "from 1 to num_train = 50"]),
        (Hyper(51, 0.1, 0.9), ["batch size 51", "num_train = 50"]),
        (Hyper(8.0, 0.1, 0.9), ["batch size 8.0", "a whole number"]),  # type: ignore[arg-type]
        (Hyper(True, 0.1, 0.9), ["batch size True", "a whole number"]),
        (Hyper(8, 0.0, 0.9), ["learning rate 0.0", "above 0"]),
        (Hyper(8, -0.1, 0.9), ["learning rate -0.1", "above 0"]),
        (Hyper(8, math.nan, 0.9), ["learning rate nan", "finite"]),
        (Hyper(8, math.inf, 0.9), ["learning rate inf", "finite"]),
        (Hyper(8, 0.1, 1.0), ["momentum 1.0", "[0, 1)"]),
        (Hyper(8, 0.1, -0.1), ["momentum -0.1", "[0, 1)"]),
        (Hyper(8, 0.1, math.nan), ["momentum nan", "[0, 1)"]),
    ],
)
def test_values_that_no_update_could_use_are_refused_with_their_place(hyper: Hyper, words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        consult(lambda progress: hyper, Progress(7, 30, 120, 50))
    for word in ["schedule", "at 0.2500 of the budget (step 7)", *words]:
        assert word in str(refusal.value)


def test_a_schedule_that_fails_late_is_refused_where_it_fails() -> None:
    with pytest.raises(UsageError, match=r"learning rate 0 at 0\.9000 of the budget \(step 9\)"):
        list(simulate(lambda p: Hyper(10, int(p.step < 9), 0.9), total_samples=100, num_train=100))


def test_the_noise_scale_is_that_of_smith_et_al() -> None:
    assert noise_scale(0.1, 0.9, 100, 1000) == pytest.approx(9.0)  # 1 * (10 - 1)
    assert noise_scale(0.1, 0.0, 1000, 1000) == 0.0  # the full gradient has none
