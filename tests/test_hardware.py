"""Hardware tables: hand-worked sums, what is refused, ideal workers, the limits of the break-even curve, the file."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bsexp.analysis.hardware import (
    AllReduce,
    Cost,
    Elastic,
    HardwareTable,
    count_sizes,
    elastic,
    fit_cost,
    half_saved_at,
    knee,
    modelled_seconds,
    relative_time,
    time_ratio,
    worker_share,
)
from bsexp.errors import StoreError, UsageError
from bsexp.records import HardwareRow
from bsexp.store.hardware import read_about, read_hardware, write_hardware

# 1 + B seconds up to 4, from there on twice as much for each sample.
TABLE = HardwareTable("cpu", (1, 4, 10), (2.0, 5.0, 17.0), (0.1, 0.2, 0.3), (100, None, 300))


def affine(per_update: float, per_sample: float, sizes: tuple[int, ...] = (1, 8, 64, 512)) -> HardwareTable:
    seconds = tuple(per_update + per_sample * size for size in sizes)
    return HardwareTable("cpu", sizes, seconds, (0.0,) * len(sizes), (None,) * len(sizes))


@pytest.mark.parametrize(("size", "seconds"), [(1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0), (7, 11.0), (10, 17.0)])
def test_seconds_are_linear_between_measured_sizes(size: int, seconds: float) -> None:
    assert TABLE.seconds(size) == pytest.approx(seconds)


def test_seconds_agree_with_numpys_interpolation() -> None:
    sizes = np.arange(1, 11)
    expected = np.interp(sizes, TABLE.sizes, TABLE.seconds_per_update)
    assert [TABLE.seconds(int(size)) for size in sizes] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("size", [11, 1000])
def test_a_size_outside_the_measured_ones_is_refused_with_size_range_and_cure(size: int) -> None:
    with pytest.raises(UsageError, match=rf"batch size {size:,} is outside the measured 1 to 10; .*--batch-sizes"):
        TABLE.seconds(size)
    with pytest.raises(UsageError):
        modelled_seconds(TABLE, {4: 1.0, size: 1.0})


def test_a_table_of_one_size_knows_that_size_only() -> None:
    single = HardwareTable("cpu", (8,), (0.5,), (0.0,), (None,))
    assert single.seconds(8) == 0.5
    with pytest.raises(UsageError, match="not the measured 8"):
        single.seconds(7)
    assert fit_cost(single) is None


def test_modelled_seconds_sum_the_updates_and_carry_the_spread() -> None:
    # 3 updates of 2 (2/3 of the first size, 1/3 of the second) and one of 10: 3 * 3 + 17 = 26 seconds.
    found = modelled_seconds(TABLE, {2: 3.0, 10: 1.0})
    assert found.value == pytest.approx(26.0)
    # Weights 2, 1, 1: the standard error is sqrt((2 * .1)^2 + (1 * .2)^2 + .3^2) = sqrt(.17).
    reach = math.exp(1.959964 * math.sqrt(0.17) / 26)
    assert (found.low, found.high) == pytest.approx((26 / reach, 26 * reach))


def test_the_ratio_of_equal_runs_is_exactly_one_whatever_the_spread() -> None:
    found = time_ratio(TABLE, {2: 3.0, 10: 1.0}, {2: 3.0, 10: 1.0})
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_ratios_interval_agrees_with_a_simulation() -> None:
    first, second = {2: 3.0, 10: 1.0}, {4: 4.0}
    sharp = replace(TABLE, spread=tuple(spread / 4 for spread in TABLE.spread))
    found = time_ratio(sharp, first, second)
    assert found.value == pytest.approx(26 / 20)
    rng = np.random.default_rng(0)
    seconds = rng.normal(sharp.seconds_per_update, sharp.spread, (200_000, 3))
    # 26 = 2 s1 + s2 + s3, 20 = 4 s2.
    ratios = (seconds @ [2, 1, 1]) / (seconds @ [0, 4, 0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), rel=1e-3)


def test_ideal_workers_share_each_update() -> None:
    assert [worker_share(size, 4) for size in (1, 4, 5, 8, 10)] == [1, 1, 2, 2, 3]
    # Of 10 samples the busiest of 4 workers has 3: 4 seconds; of 2 samples it has 1: 2 seconds.
    assert modelled_seconds(TABLE, {10: 1.0, 2: 2.0}, workers=4).value == pytest.approx(4.0 + 2 * 2.0)
    # More workers than samples help no further.
    assert modelled_seconds(TABLE, {4: 1.0}, workers=4).value == modelled_seconds(TABLE, {4: 1.0}, workers=99).value


RING = AllReduce(latency=0.5, bandwidth=8.0, num_bytes=64)


def test_a_ring_of_workers_sends_each_part_of_the_gradient_twice_around() -> None:
    # 4 workers: 6 messages of 16 bytes, each .5 s and 2 s; 2 workers: 2 of 32, .5 s and 4 s.
    assert [RING.seconds(workers) for workers in (1, 2, 4)] == [0.0, 9.0, 15.0]


def test_talking_costs_the_same_at_each_update_whatever_its_size() -> None:
    alone = modelled_seconds(TABLE, {10: 1.0, 2: 2.0}, workers=4)
    talking = modelled_seconds(TABLE, {10: 1.0, 2: 2.0}, workers=4, all_reduce=RING)
    assert talking.value == pytest.approx(alone.value + 3 * 15.0)
    assert modelled_seconds(TABLE, {10: 1.0}, all_reduce=RING) == modelled_seconds(TABLE, {10: 1.0})
    # What is certain makes the ratio more certain, and nearer to that of the updates.
    sharp = replace(TABLE, spread=(0.1, 0.1, 0.1))
    silent = time_ratio(sharp, {40: 1.0}, {10: 4.0}, workers=4)
    loud = time_ratio(sharp, {40: 1.0}, {10: 4.0}, workers=4, all_reduce=replace(RING, latency=1e6))
    assert loud.value == pytest.approx(0.25, rel=1e-3)
    assert loud.high / loud.low < silent.high / silent.low


def test_a_worker_more_is_useful_while_half_of_the_time_saves_some() -> None:
    # seconds(B) = 1 + B: of 7 samples 8 s alone; 7 workers 2 s each, 14 in all, is less than twice as much. The eighth
    # has nothing to do.
    table = HardwareTable("cpu", (1, 7), (2.0, 8.0), (0.0, 0.0), (None, None))
    assert elastic(table, {7: 1.0}, (1, 7, 8)) == Elastic(7, 7, 2.0, 7.0)
    # One sample is nobody's to share.
    found = elastic(table, {1: 3.0, 7: 1.0}, (1, 7))
    assert found == Elastic(1, 7, 3 * 2.0 + 2.0, (6.0 + 2.0 * 7) / 8.0)
    # Two messages of 32 bytes: 9 s more than the 5 that 4 samples take, and worse than alone.
    assert elastic(table, {7: 1.0}, (1, 2), RING) == Elastic(1, 1, 8.0, 1.0)


def test_a_share_that_was_not_measured_is_refused_with_the_number_of_workers() -> None:
    table = HardwareTable("cpu", (4, 8), (1.0, 1.0), (0.0, 0.0), (None, None))
    with pytest.raises(UsageError, match=r"batch size 2 \(8 over 4 workers\) is outside the measured 4 to 8"):
        modelled_seconds(table, {8: 1.0}, workers=4)


def test_workers_bring_a_batch_out_of_range_back_into_it() -> None:
    assert modelled_seconds(TABLE, {40: 1.0}, workers=4).value == pytest.approx(17.0)


def test_batch_sizes_are_counted() -> None:
    assert count_sizes(iter([4, 8, 4, 2])) == {2: 1.0, 4: 2.0, 8: 1.0}


GROWING, FIXED = {10: 20.0, 50: 4.0}, {10: 40.0}


def test_without_a_fixed_cost_growing_saves_nothing_and_with_nothing_else_all_that_updates_promise() -> None:
    assert relative_time(GROWING, FIXED, 0.0) == 1.0
    assert relative_time(GROWING, FIXED, math.inf) == 24 / 40
    assert relative_time(GROWING, FIXED, 1e12) == pytest.approx(24 / 40)


def test_half_of_the_promise_is_saved_where_the_fixed_cost_is_the_mean_batch_of_the_other() -> None:
    assert half_saved_at(FIXED) == 10.0
    # Promised: 40 %; at k = 10: (10 * 24 + 400) / (10 * 40 + 400) = .8.
    assert relative_time(GROWING, FIXED, 10.0) == pytest.approx(0.8)


def test_the_curve_is_what_an_affine_table_gives() -> None:
    table = affine(per_update=0.006, per_sample=0.001)
    expected = relative_time(GROWING, FIXED, 6.0)
    assert time_ratio(table, GROWING, FIXED).value == pytest.approx(expected)


def test_a_negative_fixed_cost_has_no_place_on_the_curve() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        relative_time(GROWING, FIXED, -1.0)


def test_the_fit_finds_the_costs_of_an_affine_table() -> None:
    cost = fit_cost(affine(per_update=0.02, per_sample=0.0005))
    assert cost is not None
    assert (cost.per_update, cost.per_sample, cost.fixed_samples) == pytest.approx((0.02, 0.0005, 40.0))
    assert Cost(0.02, 0.0).fixed_samples == math.inf
    falling = fit_cost(HardwareTable("cpu", (1, 100), (1.0, 200.0), (0.0, 0.0), (None, None)))
    assert falling is not None
    assert falling.fixed_samples < 0


def test_the_knee_is_the_smallest_batch_within_a_tenth_of_the_best() -> None:
    table = HardwareTable("cpu", (1, 2, 4, 8), (1.0, 1.0, 1.09, 2.0), (0.0,) * 4, (None,) * 4)
    # 1, 2, 3.67 and 4 samples a second: 3.67 is above 3.6.
    assert knee(table) == 4


ROWS = [
    HardwareRow("cpu", 1, 1, 0.5, 0.01, 2.0, 1000),
    HardwareRow("cpu", 16, 8, 2.0, 0.0, 8.0, None),
]
HEADER = "device,batch_size,micro_batch_size,seconds_per_update,spread,samples_per_second,peak_memory_bytes\n"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "hardware.csv"
    write_hardware(path, ROWS, {"model": "mlp"})
    assert path.read_text() == HEADER + "cpu,1,1,0.5,0.01,2.0,1000\ncpu,16,8,2.0,0.0,8.0,\n"
    assert read_hardware(path) == ROWS
    assert read_about(path) == {"model": "mlp"}
    table = HardwareTable.of(read_hardware(path))
    assert table.sizes == (1, 16)
    assert table.samples_per_second == (2.0, 8.0)
    assert read_about(tmp_path / "other.csv") == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", ":1: no rows"),
        ("cpu,4,4,1,0,4,\ncpu,2,2,1,0,2,\n", ":3: batch_size 2 after batch_size 4"),
        ("cpu,4,4,1,0,4,\ncpu,4,4,1,0,4,\n", ":3: batch_size 4 after batch_size 4"),
        ("cpu,4,4,1,0,4,\ncuda,8,8,1,0,8,\n", ":3: device 'cuda' after 'cpu'"),
        ("cpu,4,4,0,0,4,\n", ":2: seconds_per_update is 0, expected a number above 0"),
        ("cpu,4,4,nan,0,4,\n", ":2: seconds_per_update is nan"),
        ("cpu,4,4,1,-1,4,\n", ":2: spread is -1"),
        ("cpu,4,4,1,,4,\n", ":2: spread is empty"),
        ("cpu,4,8,1,0,4,\n", ":2: micro_batch_size 8 of a batch of 4"),
        ("cpu,4.5,4,1,0,4,\n", ":2: batch_size is 4.5, expected a whole number"),
        ("cpu,4,4,1,0,5,\n", ":2: samples_per_second is 5, batch_size / seconds_per_update is 4"),
        ("cpu,4,4,1,0,four,\n", ":2: samples_per_second is 'four'"),
        ("cpu,4,4,1,0,4,0\n", ":2: peak_memory_bytes is 0"),
        ("cpu,4,4,1,0,4\n", ":2: 6 values for 7 columns"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_line(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "hardware.csv"
    path.write_text(HEADER + lines)
    with pytest.raises(StoreError) as caught:
        read_hardware(path)
    assert f"hardware.csv{said}" in str(caught.value)
    assert "bsexp measure" in str(caught.value)


def test_a_missing_column_or_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "hardware.csv").write_text(HEADER.replace(",spread", ""))
    with pytest.raises(StoreError, match=r"hardware.csv:1: column 'spread' is missing"):
        read_hardware(tmp_path / "hardware.csv")
    with pytest.raises(StoreError, match="No such file"):
        read_hardware(tmp_path / "nothing.csv")
