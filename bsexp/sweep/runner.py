"""One run from its config to its files.

The one rule: this is where the engine's records meet the store; neither knows of the other.
"""

import io
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from bsexp.config import RunConfig
from bsexp.data.sources import Images, load_images
from bsexp.data.splits import prepare
from bsexp.engine.loop import Training
from bsexp.errors import BsexpError
from bsexp.records import EvalRow, StepRow
from bsexp.store.runs import RunWriter, summarise
from bsexp.sweep.tasks import Execution, Task

Tell = Callable[[Training, StepRow | EvalRow], None]


def make_run(task: Task, execution: Execution, tell: Tell) -> dict[str, Any]:
    """Train one run and store it; its summary.

    `tell` hears of every row. Whatever stops the run early leaves no trace but, for a failure that isn't the user's
    doing, the reason (failure.json).
    """
    began = time.perf_counter()
    config = RunConfig(**task.config)
    writer = RunWriter(task.folder, config, task.arm, execution.environment)
    try:
        writer.open()
        images = _images(config.dataset, config.image_size)
        training = Training(config, data=prepare(config, images), device=execution.device)
        for record in training:
            if isinstance(record, StepRow):
                writer.steps.append(record)
                tell(training, record)
            elif isinstance(record, EvalRow):
                writer.evals.append(record)
                writer.flush()
                tell(training, record)
        return _store(task, config, writer, training, execution, time.perf_counter() - began)
    except BsexpError:
        writer.abandon()
        raise
    except Exception as error:
        writer.fail(f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
        raise
    except BaseException:
        writer.abandon()
        raise


def _store(
    task: Task, config: RunConfig, writer: RunWriter, training: Training, execution: Execution, wall: float
) -> dict[str, Any]:
    outcome = training.outcome
    assert outcome is not None, "an exhausted training has an outcome"
    summary = summarise(task.experiment, task.arm, config, task.max_batch, wall, outcome)
    if summary["peak_memory_bytes"] is None and execution.alone:
        summary["peak_memory_bytes"] = _peak_memory()
    arrays = {
        f"{which}_{name}": getattr(predictions, name).numpy()
        for which, predictions in training.predictions.items()
        for name in ("classes", "losses", "confidences")
    }
    writer.finish(summary, arrays, _weights(training) if execution.save_model else None)
    return summary


def _weights(training: Training) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save(training.model.state_dict(), content)
    return content.getvalue()


def _peak_memory() -> int | None:
    """The process's largest resident size so far, in bytes; None where the system doesn't say."""
    import sys

    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@lru_cache(maxsize=2)
def _images(dataset: str, image_size: int | None) -> Images:
    return load_images(dataset, image_size)
