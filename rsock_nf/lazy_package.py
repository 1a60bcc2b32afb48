"""A package whose ``__init__`` runs only when something that it defines is asked for.

The ``__init__`` of pyroute2 imports 160 modules.  An instance needs 39 of them, those of a few message classes, and the
others are an eighth of the instructions of its start.  Only the program (``__main__``) does this: programs that
import ``rsock_nf`` get pyroute2 as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def defer(name: str) -> None:
    """Have ``import name.submodule`` import that module alone.

    What ``name`` itself defines is there, too: asking for it runs the ``__init__``, as any import would have before.
    Does nothing where there is no such package, or when it is imported already.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return
    loader, package = spec.loader, importlib.util.module_from_spec(spec)

    def find(wanted: str) -> Any:
        if not wanted.startswith("__"):
            submodule = _import(f"{name}.{wanted}")
            if submodule is not None:
                return submodule
            del package.__getattr__
            loader.exec_module(package)
            if hasattr(package, wanted):
                return getattr(package, wanted)
        raise AttributeError(f"module {name!r} has no attribute {wanted!r}")

    package.__getattr__ = find  # type: ignore[method-assign]
    sys.modules[name] = package


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
