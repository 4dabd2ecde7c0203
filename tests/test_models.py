"""Networks: sizes known from papers, weights by name, normalisation against torch's and hand-computed numbers."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bsexp import plugins
from bsexp.catalog import MODELS, is_factory
from bsexp.errors import SetupError, UsageError
from bsexp.models import BUILDERS, build_model, count_parameters
from bsexp.models.layers import GhostBatchNorm
from bsexp.models.resnet import PaddedShortcut, PreActivationBlock

SMALL = ("mlp", "cnn", "cnn-small", "lenet")


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    """Small tensors gain nothing from threads, which wait for each other where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str, shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10, **rest: object) -> nn.Module:
    return build_model(name, image_shape=shape, num_classes=num_classes, **rest)  # type: ignore[arg-type]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.dim() >= 2}


def test_every_model_of_the_catalogue_can_be_built() -> None:
    assert set(BUILDERS) == set(MODELS)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("mlp", (1, 8, 8), 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10),
        # weights and biases of 3 convolutions, scale and shift of 3 norms, the dense layer
        ("cnn", (1, 28, 28), (9 * 16 + 9 * 16 * 32 + 9 * 32 * 64 + 112) + 2 * 112 + 650),
        ("cnn-small", (1, 28, 28), (9 * 8 + 9 * 8 * 16 + 9 * 16 * 32 + 56) + 2 * 56 + 330),
        ("lenet", (1, 28, 28), 61_706),  # as given in every account of LeNet-5 with these layers
        ("resnet20", (3, 32, 32), 269_722),  # He et al. 2016, table 6: 0.27M, 0.85M
        ("resnet56", (3, 32, 32), 853_018),
        ("resnet18", (3, 32, 32), 11_173_962),
        ("wrn-16-4", (3, 32, 32), 2_748_890),  # Zagoruyko & Komodakis 2016, table 4: 2.8M
    ],
)
def test_number_of_parameters_is_the_known_one(name: str, shape: tuple[int, int, int], expected: int) -> None:
    assert count_parameters(build(name, shape)) == expected


def test_frozen_parameters_are_not_counted() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert count_parameters(model) == 6


SHAPES = ((1, 8, 8), (3, 28, 28), (1, 32, 32), (3, 64, 64))


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in BUILDERS for shape in (SHAPES if name in (*SMALL, "resnet20") else SHAPES[:2])],
)
def test_logits_have_the_right_shape_at_any_size(name: str, shape: tuple[int, int, int]) -> None:
    for training in (True, False):
        logits = build(name, shape, 7, dropout=0.5).train(training)(torch.randn(2, *shape))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name in SMALL for norm in ("none", "group", "batch")] + [("resnet20", None), ("wrn-16-4", None)],
)
def test_a_few_updates_lower_the_loss(name: str, norm: str | None) -> None:
    model = build(name, (1, 8, 8), norm=norm)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (32,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(20 if name in SMALL else 5):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(10), abs=0.15)
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_are_the_same_whatever_norm_and_dropout(name: str) -> None:
    expected = weights(build(name, seed=3))
    variants = [build(name, seed=3, norm=norm, dropout=0.3) for norm in ("none", "group", "batch")]
    variants.append(build(name, seed=3, norm="batch", ghost_batch=16))
    for model in variants:
        found = weights(model)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    other = weights(build(name, seed=4))
    assert not any(torch.equal(other[key], expected[key]) for key in expected)


def test_weights_of_one_shape_differ_by_name() -> None:
    first, second = (weights(build("resnet20"))[f"stages.{block}.conv1.weight"] for block in (0, 1))
    assert not torch.equal(first, second)


def test_wide_shortcut_reads_the_activated_input_where_channels_change_and_the_plain_one_elsewhere() -> None:
    negative = -torch.ones(1, 2, 3, 3)  # nothing is left of it by ReLU
    changed = PreActivationBlock(2, 4, 1, lambda _: nn.Identity())
    assert torch.equal(changed(negative), torch.zeros(1, 4, 3, 3))
    same = PreActivationBlock(2, 2, 1, lambda _: nn.Identity())
    assert torch.equal(same(negative), negative)


def test_padded_shortcut_keeps_every_second_pixel_and_adds_channels_of_zeros() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    kept = PaddedShortcut(1, 2, 2)(image)
    assert torch.equal(kept, torch.tensor([[[[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0], [0.0, 0.0]]]]))


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_start_with_variance_two_over_fan_in_and_the_heads_with_a_hundredth(name: str) -> None:
    for key, weight in build(name).named_parameters():
        if weight.dim() < 2:
            assert torch.all(weight == (1 if key.endswith("weight") else 0))
            continue
        expected = 1e-4 if key == "head.weight" else 2 / weight[0].numel()
        variance = float(weight.detach().square().mean())
        # the mean square of n normal numbers has a relative standard error of sqrt(2 / n)
        assert variance == pytest.approx(expected, rel=5 * (2 / weight.numel()) ** 0.5), key


def test_global_generators_are_neither_read_nor_moved() -> None:
    for name in ("cnn", "torchvision:squeezenet1_1"):
        shape = (3, 32, 32)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = build(name, shape, seed=5).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        second = build(name, shape, seed=5).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_dropout_acts_before_the_last_layer_only() -> None:
    model = build("cnn", (1, 8, 8), dropout=0.5)
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [drop.p for drop in drops] == [0.5]
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model(images)
    model.eval()(images)
    dropped, whole = seen
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    assert float(kept[whole != 0].float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("batch", "sizes"), [(8, (4, 4)), (11, (6, 5)), (3, (3,)), (7, (7,)), (14, (5, 5, 4))])
def test_ghost_groups_are_normalised_like_batches_of_their_own(
    batch: int, sizes: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 6, 3, 5, generator=generator).contiguous(memory_format=memory_format)
    images = (images + torch.arange(batch).view(-1, 1, 1, 1)).requires_grad_()
    push = torch.randn(batch, 6, 3, 5, generator=generator)
    ghost = GhostBatchNorm(6, ghost_batch=4)
    reference = nn.BatchNorm2d(6)
    with torch.no_grad():
        for norm in (ghost, reference):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    found = ghost(images)
    expected = torch.cat([reference(part) for part in images.split(list(sizes))])
    torch.testing.assert_close(found, expected)
    inputs = (images, ghost.weight, ghost.bias)
    slow = torch.autograd.grad(expected, (images, reference.weight, reference.bias), push)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, push), slow)
    assert found.is_contiguous(memory_format=memory_format)


def test_features_are_normalised_like_batch_norm_1d() -> None:
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GhostBatchNorm(4)(features), nn.BatchNorm1d(4)(features))


def test_running_averages_follow_the_sample_clock() -> None:
    norm = GhostBatchNorm(1, ghost_batch=2)
    norm(torch.tensor([[0.0], [2.0], [10.0], [16.0]]))
    # groups (0, 2) and (10, 16): means 1 and 13, unbiased variances 2 and 18; their means are 7 and 10
    keep = 0.9 ** (4 / 128)
    torch.testing.assert_close(norm.running_mean, torch.tensor([(1 - keep) * 7]))
    torch.testing.assert_close(norm.running_var, torch.tensor([keep * 1 + (1 - keep) * 10]))
    norm.eval()(torch.ones(4, 1))
    torch.testing.assert_close(norm.running_mean, torch.tensor([(1 - keep) * 7]))


def test_plain_batch_norm_has_torchs_momentum_at_128_samples_and_composes_over_smaller_ones() -> None:
    features = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
    norm, reference = GhostBatchNorm(3), nn.BatchNorm1d(3, momentum=0.1)
    norm(features)
    reference(features)
    torch.testing.assert_close(norm.running_var, reference.running_var)
    halves = GhostBatchNorm(1)
    for _ in range(2):
        halves(torch.tensor([[2.0], [4.0]]).repeat(32, 1))
    torch.testing.assert_close(halves.running_mean, torch.tensor([0.1 * 3]))  # as one forward of 128 would


def test_batch_norm_refuses_one_sample_in_training() -> None:
    for ghost in (0, 8):
        model = build("cnn", (1, 8, 8), norm="batch", ghost_batch=ghost)
        with pytest.raises(UsageError, match="can't train on 1 sample"):
            model(torch.randn(1, 1, 8, 8))
        assert model.eval()(torch.randn(1, 1, 8, 8)).shape == (1, 10)


def norms(model: nn.Module) -> set[tuple[str, int | None]]:
    kinds = (GhostBatchNorm, nn.GroupNorm)
    return {(type(m).__name__, getattr(m, "ghost_batch", None)) for m in model.modules() if isinstance(m, kinds)}


def test_norm_and_ghost_size_default_to_the_catalogues() -> None:
    assert norms(build("resnet20")) == {("GhostBatchNorm", 32)}
    assert norms(build("resnet20", ghost_batch=64)) == {("GhostBatchNorm", 64)}
    assert norms(build("resnet20", norm="batch")) == {("GhostBatchNorm", 0)}
    assert norms(build("resnet20", norm="group")) == {("GroupNorm", None)}
    assert norms(build("cnn")) == {("GroupNorm", None)}
    assert norms(build("mlp")) == norms(build("cnn", norm="none")) == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "resnet21"}, "did you mean 'resnet20'"),
        ({"norm": "layer"}, "norm: unknown name 'layer'; known: group, batch, none"),
        ({"norm": "group", "ghost_batch": 32}, "ghost_batch: 32; norm 'group' has no batch statistics"),
        ({"norm": "batch", "ghost_batch": 1}, "2 and more samples"),
        ({"norm": "batch", "ghost_batch": -4}, "2 and more samples"),
        ({"name": "torchvision:resnet19"}, "did you mean 'resnet1"),
        ({"name": "torchvision:fasterrcnn_resnet50_fpn"}, "no classification model"),
        ({"name": "torchvision:resnet18", "norm": "group"}, "takes no norm"),
        ({"name": "torchvision:resnet18", "dropout": 0.1}, "takes no dropout"),
    ],
)
def test_what_cant_be_built_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(**{"name": "cnn", **options})  # type: ignore[arg-type]


def test_only_the_users_own_networks_are_factories() -> None:
    assert [is_factory(name) for name in ("mlp", "torchvision:resnet18", "mine:net")] == [False, False, True]


FACTORIES = """
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
        self.frozen = nn.Dropout(0.5).eval()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.net(x)

def plain(image_shape, num_classes):
    return Counting(image_shape, num_classes)

def tuned(image_shape, num_classes, dropout=0.9, norm="batch"):
    model = plain(image_shape, num_classes)
    model.told = (dropout, norm)
    return model

def broken(image_shape, num_classes):
    raise ValueError("no luck")

def number(image_shape, num_classes):
    return 3

def narrow(image_shape, num_classes):
    return plain(image_shape, num_classes - 1)

def pair(image_shape, num_classes):
    class Pair(Counting):
        def forward(self, x):
            return super().forward(x), x
    return Pair(image_shape, num_classes)

def fixed(image_shape, num_classes):
    return plain((1, 2, 2), num_classes)
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "own_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_factories", raising=False)


@pytest.mark.usefixtures("own")
def test_a_factory_is_called_under_the_seed_with_what_it_names() -> None:
    model = build("own_factories:tuned", (1, 4, 4), 5, seed=1)
    assert model.told == (0.0, "batch")
    assert build("own_factories:tuned", (1, 4, 4), 5, norm="group", dropout=0.2).told == (0.2, "group")
    again, other = (weights(build("own_factories:plain", (1, 4, 4), 5, seed=seed))["net.1.weight"] for seed in (1, 2))
    assert torch.equal(weights(model)["net.1.weight"], again)
    assert not torch.equal(again, other)


@pytest.mark.usefixtures("own")
def test_the_check_of_a_factorys_model_leaves_buffers_and_modes() -> None:
    model = build("own_factories:plain", (1, 4, 4), 5)
    assert float(model.calls) == 0
    assert model.training
    assert model.net.training
    assert not model.frozen.training


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        ("broken", {}, "building it failed: ValueError: no luck"),
        ("number", {}, "must return a torch.nn.Module, not int"),
        ("narrow", {}, r"must have shape \(2, 5\), not \(2, 4\)"),
        ("pair", {}, r"must have shape \(2, 5\), not tuple"),
        ("fixed", {}, r"can't take images of shape \(1, 4, 4\): RuntimeError"),
        ("plain", {"norm": "group"}, "own_factories:plain takes no norm"),
        ("plain", {"dropout": 0.5}, "own_factories:plain takes no dropout"),
        ("absent", {}, "has no 'absent'"),
    ],
)
def test_a_factory_that_fails_is_named(factory: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(f"own_factories:{factory}", (1, 4, 4), 5, **options)


def test_torchvision_that_cant_be_imported_is_a_matter_of_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(SetupError, match="pip install --force-reinstall torch torchvision"):
        build("torchvision:resnet18")


def test_bsexps_own_models_need_no_torchvision() -> None:
    code = "import sys, bsexp.models as m; m.build_model('cnn', image_shape=(1, 8, 8), num_classes=2)"
    code += "; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_factory_without_a_source_of_its_own_has_that_of_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from functools import partial\nimport torch\nnet = partial(torch.nn.Linear, 64)\n"
    (tmp_path / "kept_partial.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = plugins.source_fingerprint("model", "kept_partial:net")
    assert found == hashlib.sha256(text.encode()).hexdigest()[:16]
