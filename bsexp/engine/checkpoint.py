"""A training's state as bytes, and back.

The one rule: reading executes nothing. A state is tensors, numbers and texts in dicts and lists; anything else in it
was not written by bsexp and is refused.
"""

import io
import pickle
import warnings
from typing import Any

import torch

from bsexp.errors import StoreError


def to_bytes(state: dict[str, Any]) -> bytes:
    """What `Training.state` returned, in torch's format."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def from_bytes(payload: bytes) -> dict[str, Any]:
    """The state in `payload`, its tensors on the CPU. Raises StoreError where it holds anything but plain values."""
    try:
        with warnings.catch_warnings():
            # torch warns of pickles unlike its own; what they hold is refused or plain all the same.
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError("checkpoint", f"refused, nothing of it was run ({reason[:160]})", "delete it") from None
    if not isinstance(state, dict):
        raise StoreError("checkpoint", f"refused: it holds a {type(state).__name__}", "delete it")
    return state
