"""Which data sets and models exist, with their sizes and starting points.

The one rule: facts only, standard library only, so that planning and listing load neither images nor torch. How a data
set is read stands in `data.sources`, how a model is built in `models`.
"""

from dataclasses import dataclass
from pathlib import PurePath

from bsexp.errors import UsageError, nearest


@dataclass(frozen=True)
class Dataset:
    """A data set's sizes and defaults. `num_train`: images in the training file, before a validation split is taken.

    `image_shape` is (C, H, W); None where it is found out by reading. `crop` is the padding of the random crop, in
    pixels (0: none); `mirror`: half of the images are mirrored.
    """

    name: str
    summary: str
    image_shape: tuple[int, int, int] | None
    num_classes: int | None
    num_train: int | None
    num_test: int | None
    model: str
    batch_size: int
    large_batch: int
    lr: float
    epochs: float
    crop: int = 0
    mirror: bool = False
    source: str = ""
    gpu_model: str = ""


def _small(name: str, summary: str, train: int, test: int, classes: int, source: str, mirror: bool = False) -> Dataset:
    return Dataset(
        name, summary, (1, 28, 28), classes, train, test, "cnn", 32, 512, 0.02, 10, crop=2, mirror=mirror, source=source
    )


def _colour(
    name: str, summary: str, train: int | None, test: int | None, classes: int | None, source: str, mirror: bool = True
) -> Dataset:
    shape = (3, 32, 32) if train else None
    return Dataset(
        name,
        summary,
        shape,
        classes,
        train,
        test,
        "resnet20",
        128,
        1024,
        0.1,
        20,
        crop=4,
        mirror=mirror,
        source=source,
        gpu_model="resnet18",
    )


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            "8x8 handwritten digits, built in (scikit-learn)",
            (1, 8, 8),
            10,
            1437,
            360,
            "mlp",
            16,
            128,
            # Fit for labels of which 20 % are noise, the quickstart's: the middle of its grid, from 1/4 to 4 times it.
            0.0125,
            20,
            source="Alpaydin & Kaynak 1998",
        ),
        _small("mnist", "28x28 handwritten digits", 60000, 10000, 10, "LeCun et al. 1998"),
        _small(
            "fashion-mnist",
            "28x28 articles of clothing",
            60000,
            10000,
            10,
            "Xiao et al. 2017, arXiv:1708.07747",
            mirror=True,
        ),
        _small("kmnist", "28x28 cursive Japanese characters", 60000, 10000, 10, "Clanuwat et al. 2018"),
        _small("emnist-balanced", "28x28 letters and digits", 112800, 18800, 47, "Cohen et al. 2017"),
        _small("emnist-letters", "28x28 letters", 124800, 20800, 26, "Cohen et al. 2017"),
        _small("emnist-digits", "28x28 digits", 240000, 40000, 10, "Cohen et al. 2017"),
        _colour("cifar10", "32x32 colour photographs", 50000, 10000, 10, "Krizhevsky 2009"),
        _colour("cifar100", "32x32 colour photographs", 50000, 10000, 100, "Krizhevsky 2009"),
        _colour("svhn", "32x32 house numbers", 73257, 26032, 10, "Netzer et al. 2011", mirror=False),
    )
}

OWN_DATASET = _colour("folder:PATH", "class folders of images; or module:factory", None, None, None, "yours")


@dataclass(frozen=True)
class Model:
    """A model's defaults. `micro_batch`: the largest part of a batch that is run at once (memory), in samples.

    `cost`: measured seconds on one core of a 2-core x86-64 (AVX-512) at the image size of `cost_pixels`: per update,
    per sample trained, per sample evaluated, the other core busy too. Used by `plan` until runs of one's own have
    finished.
    """

    name: str
    summary: str
    norm: str
    micro_batch: int
    cost: tuple[float, float, float]
    cost_pixels: int
    ghost_batch: int = 0
    source: str = ""


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("mlp", "pixels-128-128-classes", "none", 65536, (7e-4, 2.7e-6, 1e-6), 64),
        Model("cnn", "3 convolutions, 16-32-64 channels", "group", 2048, (1.1e-3, 2.2e-4, 7.3e-5), 784),
        Model("cnn-small", "3 convolutions, 8-16-32 channels", "group", 4096, (1.3e-3, 9.6e-5, 3.8e-5), 784),
        Model(
            "lenet",
            "2 convolutions, 3 dense layers",
            "none",
            8192,
            (1.3e-3, 1.1e-4, 5.5e-5),
            784,
            source="LeCun et al. 1998",
        ),
        Model(
            "resnet20",
            "residual, 16-32-64 channels",
            "batch",
            1024,
            (3e-3, 3.25e-3, 9.5e-4),
            1024,
            32,
            "He et al. 2016",
        ),
        Model(
            "resnet56", "residual, 16-32-64 channels", "batch", 1024, (6e-3, 9.9e-3, 2.8e-3), 1024, 32, "He et al. 2016"
        ),
        Model(
            "resnet18",
            "residual, 64-512 channels, stem for 32x32",
            "batch",
            512,
            (6e-2, 3.2e-2, 1e-2),
            1024,
            32,
            "He et al. 2016",
        ),
        Model(
            "wrn-16-4",
            "wide residual, 64-128-256 channels",
            "batch",
            512,
            (3e-2, 2.3e-2, 7.2e-3),
            1024,
            32,
            "Zagoruyko & Komodakis 2016",
        ),
    )
}

OWN_MODEL = Model("module:factory", "yours, or torchvision:NAME", "", 512, (0.0, 0.0, 0.0), 0)


def find_dataset(name: str) -> Dataset:
    """The data set's entry; `folder:PATH` and `module:factory` share one. UsageError with the nearest names else."""
    if ":" in name:
        return OWN_DATASET
    try:
        return DATASETS[name]
    except KeyError:
        raise UsageError("dataset", f"unknown name {name!r}", nearest(name, [*DATASETS, "folder:PATH"])) from None


def find_model(name: str) -> Model:
    """The model's entry; `torchvision:NAME` and `module:factory` share one. UsageError with the nearest names else."""
    if ":" in name:
        return OWN_MODEL
    try:
        return MODELS[name]
    except KeyError:
        raise UsageError("model", f"unknown name {name!r}", nearest(name, [*MODELS, "torchvision:NAME"])) from None


def told_name(dataset: str) -> str:
    """The data set's name for whoever reads its files: of `folder:PATH` the last part of the path, else as it is.

    >>> told_name("folder:data/photos"), told_name("digits")
    ('folder:photos', 'digits')
    """
    kind, colon, path = dataset.partition(":")
    return f"folder:{PurePath(path).name}" if kind == "folder" and colon else dataset


def is_factory(name: str) -> bool:
    """Whether `name` is the user's own `module:factory`, of which nothing is known."""
    return ":" in name and not name.startswith("torchvision:")


def num_trained(num_images: int, val_fraction: float, train_size: int | None) -> int:
    """Samples trained on: the training file less the validation split, or the subset asked for.

    Raises UsageError where the subset is larger than what is left, or nothing is left.

    >>> num_trained(1437, 0.1, None)
    1293
    """
    left = num_images - round(num_images * val_fraction)
    if left < 2:
        raise UsageError("val_fraction", f"{val_fraction:g}", f"it leaves {left} of {num_images} images to train on")
    if train_size is not None and train_size > left:
        raise UsageError("train_size", str(train_size), f"only {left} images are left after the validation split")
    return train_size or left
