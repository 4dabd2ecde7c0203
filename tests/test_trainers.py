"""The callbacks for Lightning and for transformers: the same updates as in a loop of one's own."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import bsexp.lightning
import bsexp.transformers
from bsexp.errors import SetupError, UsageError
from bsexp.torch import ScheduledBatchSampler
from tests.loops import LOADERS, Loop, Numbered, Row

N = 300
GROWING = {"batch_size": 8, "lr": 0.5, "max_batch": 30, "milestones": [0.3, 0.6, 0.8], "factor": 2}
needs_lightning = pytest.mark.skipif(not bsexp.lightning.INSTALLED, reason="the package lightning is not installed")
needs_transformers = pytest.mark.skipif(
    not bsexp.transformers.INSTALLED, reason="the package transformers is not installed"
)
# What the two libraries and their dependencies warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def growing(**changes: Any) -> ScheduledBatchSampler:
    return ScheduledBatchSampler("growing-batch", N, **{"epochs": 4.3, **GROWING, **changes})


def shrinking() -> ScheduledBatchSampler:
    batch = {"curve": "step", "milestones": [0.5], "factor": 0.25}
    return ScheduledBatchSampler("custom", N, epochs=4.3, batch_size=32, lr=0.5, batch=batch)


@pytest.mark.parametrize("module", [bsexp.lightning, bsexp.transformers])
def test_a_missing_package_is_told_with_its_cure(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSTALLED", False)
    name = module.__name__.removeprefix("bsexp.")
    with pytest.raises(SetupError, match=rf"the package {name} is not installed; pip install 'bsexp\[{name}\]'"):
        module.ScheduleCallback(growing())


# ---- Lightning


def module_of(rows: list[Row], sampler: ScheduledBatchSampler) -> Any:
    """A LightningModule that is the model of `Loop`, and notes its updates in `rows`."""
    from lightning.pytorch import LightningModule

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 3, dtype=torch.float64)
            self.validated: list[float] = []

        def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            numbers, features, classes = batch
            (group,) = self.trainer.optimizers[0].param_groups
            index = tuple(numbers.tolist())
            rows.append(Row(sampler.samples, len(classes), group["lr"], group["momentum"], index))
            return nn.functional.cross_entropy(self.layer(features), classes)

        def validation_step(self, batch: Any) -> None:
            self.validated.append(sampler.epoch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)

    return Model()


def trainer_of(sampler: ScheduledBatchSampler, folder: Path, *callbacks: Any, **changes: Any) -> Any:
    from lightning.pytorch import Trainer

    options: dict[str, Any] = {
        "max_epochs": 5,
        "reload_dataloaders_every_n_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": bool(callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        **changes,
    }
    return Trainer(callbacks=[bsexp.lightning.ScheduleCallback(sampler), *callbacks], **options)


def loaders_of(sampler: ScheduledBatchSampler, **loading: Any) -> tuple[Any, Any]:
    data = Numbered(N)
    return DataLoader(data, batch_sampler=sampler, **loading), DataLoader(data, batch_size=N)


@needs_lightning
@pytest.mark.parametrize("loading", LOADERS, ids=str)
@pytest.mark.parametrize("made", [growing, shrinking])
def test_lightning_makes_the_updates_of_a_plain_loop(made: Any, loading: dict[str, Any], tmp_path: Path) -> None:
    whole = Loop(made()).run()
    sampler, rows = made(), list[Row]()
    model = module_of(rows, sampler)
    trainer_of(sampler, tmp_path, max_epochs=20).fit(model, *loaders_of(sampler, **loading))
    assert rows == whole.rows
    assert torch.equal(model.layer.weight, whole.model.weight)
    # After each epoch, however many batches it had, and at the end.
    assert [math.floor(epoch) for epoch in model.validated] == [1, 2, 3, 4, 4]


@needs_lightning
def test_lightning_goes_on_in_mid_epoch_from_its_checkpoint(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    whole = Loop(growing()).run()
    sampler, rows = growing(), list[Row]()
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=45, save_top_k=-1, filename="{step}")
    trainer_of(sampler, tmp_path, saving).fit(module_of(rows, sampler), *loaders_of(sampler, **LOADERS[1]))
    sampler, rows = growing(), []
    model = module_of(rows, sampler)
    trainer_of(sampler, tmp_path).fit(model, *loaders_of(sampler), ckpt_path=tmp_path / "step=45.ckpt")
    assert rows == whole.rows[45:]
    assert torch.equal(model.layer.weight, whole.model.weight)


@needs_lightning
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches: 2; leave it at 1"),
        ({"reload_dataloaders_every_n_epochs": 0}, "give 1: epochs differ in batches"),
        ({"max_epochs": 4}, "max_epochs: 4; the schedule's budget needs 5"),
        ({"max_steps": 50}, "max_steps: 50; the schedule's budget makes 91 updates"),
    ],
)
def test_a_lightning_trainer_that_would_undo_the_schedule_is_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    sampler = growing()
    with pytest.raises(UsageError, match=said):
        trainer_of(sampler, tmp_path, **options).fit(module_of([], sampler), *loaders_of(sampler))


@needs_lightning
def test_a_lightning_loader_with_another_sampler_is_refused(tmp_path: Path) -> None:
    sampler = growing()
    with pytest.raises(UsageError, match="train_dataloader: with another sampler"):
        trainer_of(sampler, tmp_path).fit(module_of([], sampler), DataLoader(Numbered(N), batch_size=8))


# ---- transformers


def scheduled(
    sampler: ScheduledBatchSampler, rows: list[Row], folder: Path, loading: Any = None, **changes: Any
) -> Any:
    """A Trainer with the model of `Loop` that notes its updates in `rows`."""
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, numbers: Tensor, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
            (group,) = trainer.optimizer.param_groups
            index = tuple(numbers.tolist())
            rows.append(Row(sampler.samples, len(labels), group["lr"], group["momentum"], index))
            return {"loss": nn.functional.cross_entropy(self.layer(features), labels)}

    def collate(batch: list[Any]) -> dict[str, Tensor]:
        numbers, features, labels = zip(*batch, strict=True)
        return {
            "numbers": torch.tensor(numbers),
            "features": torch.stack(features),
            "labels": torch.tensor(labels),
        }

    class Scheduled(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=collate, **(loading or {}))

    options: dict[str, Any] = {
        "num_train_epochs": 5,
        "lr_scheduler_type": "constant",
        "ignore_data_skip": True,
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
        **changes,
    }
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    trainer = Scheduled(
        model,
        TrainingArguments(str(folder), **options),
        train_dataset=Numbered(N),
        optimizers=(optimizer, None),
        callbacks=[bsexp.transformers.ScheduleCallback(sampler)],
    )
    return trainer


@needs_transformers
@pytest.mark.parametrize("loading", LOADERS, ids=str)
@pytest.mark.parametrize("made", [growing, shrinking])
def test_transformers_makes_the_updates_of_a_plain_loop(made: Any, loading: dict[str, Any], tmp_path: Path) -> None:
    whole = Loop(made()).run()
    sampler, rows = made(), list[Row]()
    trainer = scheduled(sampler, rows, tmp_path, loading, num_train_epochs=20)
    trainer.train()
    assert rows == whole.rows
    assert torch.equal(trainer.model.layer.weight, whole.model.weight)
    assert trainer.state.global_step == trainer.state.max_steps == len(rows)
    # The rate of each update, and the samples after it in epochs, whatever number of batches an epoch has.
    logged = [(entry["learning_rate"], entry["epoch"]) for entry in trainer.state.log_history[:-1]]
    assert logged == [(row.lr, (row.samples + row.batch_size) / N) for row in rows]


@needs_transformers
@pytest.mark.parametrize("made", [growing, shrinking])
def test_transformers_goes_on_in_mid_epoch_from_its_checkpoint(made: Any, tmp_path: Path) -> None:
    whole = Loop(made()).run()
    sampler, rows = made(), list[Row]()
    options = {"save_strategy": "steps", "save_steps": 45, "num_train_epochs": 20}
    scheduled(sampler, rows, tmp_path, LOADERS[1], **options).train()
    sampler, rows = made(), []
    trainer = scheduled(sampler, rows, tmp_path, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-45"))
    assert rows == whole.rows[45:]
    assert torch.equal(trainer.model.layer.weight, whole.model.weight)


@needs_transformers
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: 2; leave it at 1"),
        ({"lr_scheduler_type": "linear"}, "lr_scheduler_type: linear; give 'constant'"),
        ({"warmup_steps": 3}, "warmup_steps: 3; leave it out"),
        ({"max_steps": 50}, "max_steps: 50; give num_train_epochs"),
        ({"num_train_epochs": 4}, "num_train_epochs: 4; the schedule's budget needs 5"),
    ],
)
def test_arguments_that_would_undo_the_schedule_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        scheduled(growing(), [], tmp_path, **options).train()


@needs_transformers
def test_a_trainers_loader_with_another_sampler_is_refused(tmp_path: Path) -> None:
    trainer = scheduled(growing(), [], tmp_path)
    trainer.get_train_dataloader = lambda: DataLoader(Numbered(N), batch_size=8)
    with pytest.raises(UsageError, match="train_dataloader: with another sampler"):
        trainer.train()


@needs_transformers
def test_a_resumed_trainer_that_skips_data_is_refused(tmp_path: Path) -> None:
    scheduled(growing(), [], tmp_path, save_strategy="steps", save_steps=45).train()
    trainer = scheduled(growing(), [], tmp_path, ignore_data_skip=False)
    with pytest.raises(UsageError, match="ignore_data_skip: False; give True"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-45"))
