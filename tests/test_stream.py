"""The sample stream: the same samples and augmentations whatever the batch sizes; augmentation by hand."""

from dataclasses import replace

import pytest
import torch

from bsexp.data.augment import Batches
from bsexp.data.splits import Part, TrainingData
from bsexp.data.stream import Picks, SampleStream

SIZES = {
    "ones": [1] * 257,
    "thirty-twos": [32] * 8 + [1],
    "growing": [1, 2, 4, 8, 16, 32, 64, 128, 2],
    "mixed": [100, 3, 1, 77, 50, 26],
    "at once": [257],
}


def taken(sizes: list[int]) -> Picks:
    stream = SampleStream(num_train=50, seed=3, crop=2, mirror=True)
    parts = [stream.take(size) for size in sizes]
    return Picks(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


@pytest.mark.parametrize("name", SIZES)
def test_samples_and_augmentations_do_not_depend_on_batch_sizes(name: str) -> None:
    reference, other = taken(SIZES["ones"]), taken(SIZES[name])
    assert sum(SIZES[name]) == 257
    assert all(torch.equal(one, two) for one, two in zip(reference, other, strict=True))


def test_each_epoch_holds_each_sample_once_in_another_order() -> None:
    stream = SampleStream(num_train=50, seed=3)
    first, second = stream.take(50).index, stream.take(50).index
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)


def test_seeking_goes_on_as_if_everything_before_had_been_taken() -> None:
    through = SampleStream(num_train=50, seed=3, crop=2, mirror=True)
    through.take(173)
    jumped = SampleStream(num_train=50, seed=3, crop=2, mirror=True)
    jumped.seek(173)
    assert all(torch.equal(one, two) for one, two in zip(through.take(60), jumped.take(60), strict=True))


def test_other_seeds_have_other_orders() -> None:
    assert not torch.equal(SampleStream(50, 0).take(50).index, SampleStream(50, 1).take(50).index)


def test_crops_and_mirrors_cover_their_ranges_and_no_more() -> None:
    picks = SampleStream(num_train=2000, seed=0, crop=2, mirror=True).take(2000)
    assert set(picks.top.tolist()) == set(picks.left.tolist()) == {0, 1, 2, 3, 4}
    assert set(picks.mirrored.tolist()) == {0, 1}


def data(images: torch.Tensor, crop: int, mirror: bool) -> TrainingData:
    part = Part(images, torch.arange(len(images)))
    channels = images.shape[-1]
    return TrainingData(
        "made", len(images), part, None, part, torch.tensor([]), (10.0,) * channels, (2.0,) * channels, crop, mirror
    )


def test_a_crop_shifts_over_black_and_a_mirror_swaps_columns() -> None:
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).reshape(1, 2, 2, 1)
    batches = Batches(data(image, crop=1, mirror=True))
    zero = torch.zeros(1, dtype=torch.long)
    picks = Picks(zero, zero, zero + 1, zero)  # top 0: one row of black above; left 1: the columns as they are
    images, labels = batches.train(picks)
    assert labels.tolist() == [0]
    expected = (torch.tensor([[0.0, 0.0], [1.0, 2.0]]) - 10) / 2
    torch.testing.assert_close(images[0, 0], expected)
    mirrored, _ = batches.train(picks._replace(mirrored=zero + 1))
    torch.testing.assert_close(mirrored[0, 0], (torch.tensor([[0.0, 0.0], [2.0, 1.0]]) - 10) / 2)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(("crop", "mirror"), [(2, True), (2, False), (0, True), (0, False)])
def test_crop_and_mirror_agree_with_a_loop_over_padded_images(crop: int, mirror: bool, indexed: bool) -> None:
    images = torch.randint(256, (20, 6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = data(images, crop, mirror)
    if indexed:  # the same images as rows 3 to 22 of a larger file, last one first
        index = torch.arange(22, 2, -1)
        whole = torch.full((25, 6, 5, 3), 255, dtype=torch.uint8).index_copy(0, index, images)
        made = replace(made, train=Part(whole, made.train.labels, index))
    picks = SampleStream(20, seed=1, crop=crop, mirror=mirror).take(33)
    got, labels = Batches(made).train(picks)
    for k, (index, top, left, mirrored) in enumerate(zip(*(draw.tolist() for draw in picks), strict=True)):
        padded = torch.zeros(6 + 2 * crop, 5 + 2 * crop, 3)
        padded[crop : crop + 6, crop : crop + 5] = images[index].float()
        cut = padded[top : top + 6, left : left + 5]
        cut = cut.flip(1) if mirrored else cut
        torch.testing.assert_close(got[k], ((cut - 10) / 2).permute(2, 0, 1))
        assert labels[k] == index
