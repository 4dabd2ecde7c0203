"""A schedule of bsexp in your own PyTorch loop: batches that grow, and the rates that belong to them.

The one rule: one clock, the samples that the loop has trained on. `ScheduledRates.step` moves it and nothing else does;
how far a loader's workers have read ahead changes neither a batch size nor a rate.
"""

from bsexp.torch.parts import parts
from bsexp.torch.rates import ScheduledRates
from bsexp.torch.sampler import ScheduledBatchSampler

__all__ = ["ScheduledBatchSampler", "ScheduledRates", "parts"]
