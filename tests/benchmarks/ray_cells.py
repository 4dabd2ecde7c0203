"""The cells of `sweep` as a user of Ray Tune would train them: `python -m tests.benchmarks.ray_cells CELLS EPOCHS DIR`.

A function that trains one cell with bsexp's engine and reports at each evaluation; two at a time, one CPU each.
"""

import json
import sys
from typing import Any

from tests.conftest import ROOT


def cell(config: dict[str, Any]) -> None:
    """Train one cell."""
    import torch
    from ray import tune

    from bsexp import RunConfig, Training
    from bsexp.records import EvalRow

    torch.set_num_threads(1)
    for record in Training(RunConfig(**config), device="cpu"):
        if isinstance(record, EvalRow):
            tune.report({"val_accuracy": record.val_accuracy, "val_loss": record.val_loss})


def main() -> None:
    """Train all cells."""
    import ray
    from ray import tune

    cells, epochs, folder = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}
    )
    space = {
        "schedule": tune.grid_search(["fixed-small", "growing-batch"]),
        "seed": tune.grid_search(list(range(cells // 2))),
        "epochs": epochs,
    }
    tuner = tune.Tuner(
        tune.with_resources(cell, {"cpu": 1}),
        param_space=space,
        run_config=tune.RunConfig(storage_path=folder, name="cells", verbose=0),
    )
    results = tuner.fit()
    print(json.dumps({"finished": sum(result.error is None for result in results)}))


if __name__ == "__main__":
    main()
