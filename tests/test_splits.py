"""Splits, subsets and label noise: exact sizes, proportions, and what depends on the seed."""

import pytest
import torch

from bsexp import RunConfig
from bsexp.data import splits
from bsexp.data.sources import Images
from bsexp.data.splits import Part, prepare, stratified
from bsexp.errors import UsageError


def config(**options: object) -> RunConfig:
    return RunConfig(**{"schedule": "fixed-small", **options})


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_stratified_takes_classes_in_proportion_by_largest_remainder() -> None:
    labels = torch.tensor([0] * 10 + [1] * 6 + [2] * 4)
    chosen = stratified(labels, 7, torch.Generator().manual_seed(0))
    # 7/20 of 10, 6, 4 are 3.5, 2.1, 1.4: floors 3, 2, 1, and the one that is left goes to the remainder .5.
    assert torch.bincount(labels[chosen]).tolist() == [4, 2, 1]
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_digits_splits_have_the_stated_sizes_and_do_not_overlap(digits: Images) -> None:
    data = prepare(config(), digits)
    assert (len(data.train), len(data.val or []), len(data.test)) == (1293, 144, 360)
    assert data.val is not None
    # 144 of 1,437 from classes of 142 145 142 146 145 146 145 143 139 144: floors sum to 139, and the five largest
    # remainders (13.93, twice 14.63, the first two of three times 14.53) get one more.
    assert torch.bincount(data.val.labels).tolist() == [14, 15, 14, 15, 15, 15, 14, 14, 14, 14]
    # Digits has no two equal images across these splits, so sets of bytes tell them apart.
    assert not rows(data.train.images) & rows(data.val.images)
    assert not rows(data.train.images) & rows(data.test.images)


def test_the_validation_split_is_the_same_for_every_seed_and_subset(digits: Images) -> None:
    one, two = prepare(config(seed=1), digits), prepare(config(seed=2, train_size=100, label_noise=0.5), digits)
    assert one.val is not None
    assert two.val is not None
    assert torch.equal(one.val.images, two.val.images)
    assert torch.equal(one.val.labels, two.val.labels)
    assert torch.equal(one.test.labels, two.test.labels)


def test_subsets_are_drawn_per_seed_unless_fixed(digits: Images) -> None:
    drawn = [prepare(config(seed=seed, train_size=200), digits).train.images for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    fixed = [prepare(config(seed=seed, train_size=200, fixed_subset=True), digits).train.images for seed in (0, 1)]
    assert torch.equal(fixed[0], fixed[1])


def test_a_subset_keeps_the_classes_in_proportion(digits: Images) -> None:
    labels = prepare(config(train_size=200), digits).train.labels
    counts = torch.bincount(labels)
    assert counts.sum() == 200
    assert counts.min() >= 19
    assert counts.max() <= 21


def test_label_noise_redraws_the_exact_share_and_only_training_labels(digits: Images) -> None:
    clean, noisy = prepare(config(seed=4), digits), prepare(config(seed=4, label_noise=0.2), digits)
    assert torch.equal(clean.train.images, noisy.train.images)
    changed = torch.nonzero(clean.train.labels != noisy.train.labels).flatten()
    assert torch.equal(changed, noisy.redrawn)
    # 259 of 1,293 labels are drawn anew from ten classes: about nine in ten of them change.
    assert 210 <= len(changed) <= 250
    assert clean.val is not None
    assert noisy.val is not None
    assert torch.equal(clean.val.labels, noisy.val.labels)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    other = prepare(config(seed=5, label_noise=0.2), digits)
    assert not torch.equal(other.redrawn, noisy.redrawn)


def test_label_noise_is_the_same_for_all_arms_of_a_seed(digits: Images) -> None:
    one = prepare(config(seed=4, label_noise=0.2), digits)
    two = prepare(config(seed=4, label_noise=0.2, schedule="one-cycle", batch_size=64, lr=0.3), digits)
    assert torch.equal(one.train.labels, two.train.labels)


def test_normalisation_is_that_of_the_training_pixels(digits: Images) -> None:
    data = prepare(config(), digits)
    pixels = data.train.images.double()
    assert data.mean[0] == pytest.approx(float(pixels.mean()), rel=1e-12)
    assert data.std[0] == pytest.approx(float(pixels.std(unbiased=False)), rel=1e-12)


def test_without_a_validation_split_all_training_images_are_trained_on(digits: Images) -> None:
    data = prepare(config(val_fraction=0.0), digits)
    assert data.val is None
    assert len(data.train) == 1437


def test_a_subset_larger_than_what_is_left_is_refused(digits: Images) -> None:
    with pytest.raises(UsageError, match="only 1293 images are left"):
        prepare(config(train_size=1294), digits)


def made(index: torch.Tensor | None) -> Part:
    """Six images of one pixel, 0 to 50, or those at `index` with labels 0, 1, ..."""
    whole = torch.arange(0, 60, 10, dtype=torch.uint8).reshape(6, 1, 1, 1)
    return Part(whole, torch.arange(6 if index is None else len(index)), index)


def test_a_part_takes_its_own_images_through_the_index() -> None:
    part = made(torch.tensor([5, 0, 3]))
    assert part.images.flatten().tolist() == [50, 0, 30]
    assert part.take(slice(1, 3)).flatten().tolist() == [0, 30]
    assert part.take(torch.tensor([2, 2, 0])).flatten().tolist() == [30, 30, 50]
    everything = made(None)
    assert everything.take(torch.tensor([4, 1])).flatten().tolist() == [40, 10]
    assert everything.images.data_ptr() == everything.whole.data_ptr()


@pytest.mark.parametrize(("index", "expected"), [(torch.tensor([5, 0, 3]), [30, 50]), (None, [20, 0])])
def test_selecting_from_a_part_counts_positions_in_it(index: torch.Tensor | None, expected: list[int]) -> None:
    chosen = made(index).select(torch.tensor([2, 0]))
    assert chosen.images.flatten().tolist() == expected
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.whole.data_ptr() != chosen.images.data_ptr()


@pytest.mark.parametrize("index", [torch.tensor([5, 0, 3]), None])
def test_a_copy_for_a_device_holds_the_split_and_nothing_else(
    index: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "BLOCK_BYTES", 2)  # two images at a time, so that blocks have to be joined
    part = made(index)
    copy = part.copied(torch.device("cpu"))
    assert torch.equal(copy.whole, part.images)
    assert copy.whole.data_ptr() != part.whole.data_ptr()
    assert copy.index is None
    assert torch.equal(copy.labels, part.labels)
    assert part.to(torch.device("cpu")) is part
    assert part.to(torch.device("meta")).whole.shape == part.images.shape


def test_splits_share_the_images_that_were_loaded(digits: Images) -> None:
    data = prepare(config(train_size=500, label_noise=0.1), digits)
    assert data.val is not None
    loaded = digits.train_images.data_ptr()
    assert data.train.whole.data_ptr() == data.val.whole.data_ptr() == loaded
    assert data.train.select(data.redrawn).whole.data_ptr() == loaded
    assert data.test.whole.data_ptr() == digits.test_images.data_ptr()
