"""Names of the form `package.module:attribute`, loaded from the current folder or from what is installed.

The one rule: a name that can't be loaded is the user's error, told with the reason; nothing else is swallowed.
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bsexp.errors import UsageError


def load(what: str, name: str) -> Callable[..., Any]:
    """The callable called `name`; the current folder is searched first. `what` names the option in errors."""
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        where = "no such module in the current folder or the environment"
        raise UsageError(what, name, where if error.name == module_name else f"it imports {error.name!r}") from None
    except AttributeError:
        raise UsageError(what, name, f"{module_name} has no {attribute!r}") from None
    except Exception as error:
        raise UsageError(what, name, f"importing it failed: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UsageError(what, name, "it is not callable: name a factory function")
    return found


def named_arguments(factory: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `offered` that `factory` names among its parameters."""
    import inspect

    parameters = inspect.signature(factory).parameters
    return {name: value for name, value in offered.items() if name in parameters}


def source_fingerprint(what: str, name: str) -> str:
    """SHA-256 of the source file in which the factory `name` is defined, as 16 hexadecimal digits."""
    import inspect

    found = load(what, name)
    try:
        file = inspect.getsourcefile(found)
    except TypeError:
        # A partial or an object that can be called has no source of its own: that of where it is kept.
        file = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
    if file is None:
        raise UsageError(what, name, "its source file can't be found")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
