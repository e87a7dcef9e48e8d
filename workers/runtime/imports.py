"""Import of transformers without what it only needs to compile models, or to distribute them.

At its import it reads the files of all its models, to know what is in them, and it imports torch's compiler and distributed
tensors, with sympy behind them, for decorators and type checks. That is half of its time, and nothing of it is used here.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.files import atomic_file
from pipeline.model.cache import cache_folder

COMPILER = "torch._dynamo"
_TRACED = f"{COMPILER}._trace_wrapped_higher_order_op"
_STRUCTURE = "transformers.utils.import_utils"
_REQUIRES = "requires:"


@contextmanager
def light_transformers() -> Iterator[None]:
    """A block in which transformers is imported lightly and a model is loaded. Afterwards torch's compiler can be imported as ever."""
    if COMPILER in sys.modules:
        yield
        return
    import torch.distributed

    available, finder = torch.distributed.is_available, _Remembering()
    torch.distributed.is_available = lambda: False
    sys.modules |= _compiler()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _remove_compiler()
        torch.distributed.is_available = available


def _compiler() -> dict[str, ModuleType]:
    """Modules in the place of the compiler's: a decorated function stays as it is. Whatever else is asked for is the real one's."""
    compiler, traced = ModuleType(COMPILER), ModuleType(_TRACED)
    for name in ("disable", "allow_in_graph", "assume_constant_result"):
        setattr(compiler, name, _unchanged)
    for module in (compiler, traced):
        module.__dict__["__getattr__"] = lambda name, of=module.__name__: _real(of, name)
    traced.__dict__["TransformGetItemToIndex"] = lambda: _real(_TRACED, "TransformGetItemToIndex")()
    return {module.__name__: module for module in (compiler, traced)}


def _unchanged(
    function: Callable[..., Any] | None = None, *_: object, **options: object
) -> Callable[..., Any]:
    return _unchanged if function is None else function


def _real(module: str, name: str) -> Any:
    # Programs that look through all modules ask for such names; only the package's path is needed.
    if name.startswith("__") and (module, name) != (COMPILER, "__path__"):
        raise AttributeError(name)
    _remove_compiler()
    return getattr(importlib.import_module(module), name)


def _remove_compiler() -> None:
    for name in (COMPILER, _TRACED):
        if name in sys.modules and not hasattr(sys.modules[name], "__file__"):
            del sys.modules[name]


class _Remembering(MetaPathFinder):
    """Lets transformers remember, in the cache folder, what is in the files of its models."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == _STRUCTURE else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            if scan := getattr(module, "create_import_structure_from_path", None):
                module.__dict__[scan.__name__] = remembered(
                    scan, Path(module.__file__ or "").parents[1] / "models"
                )

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def remembered(scan: Callable[[Any], Any], models: Path) -> Callable[[Any], Any]:
    """`scan`, whose result for the folder `models`, or a file in it, is kept in a file until the folder changes."""
    known: dict[Path, Any] = {}

    def scanned(path: str | Path) -> Any:
        folder = Path(path).parent if Path(path).suffix == ".py" else Path(path)
        if folder != models:
            return scan(path)
        if models not in known:
            state = (
                f"{models} {models.stat().st_mtime_ns} {(models.parent / '__init__.py').stat().st_mtime_ns}"
            )
            file = cache_folder() / "imports" / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.json"
            with suppress(OSError, ValueError):
                known[models] = json.loads(file.read_bytes(), object_hook=_from_json)
        if models not in known:
            known[models] = scan(path)
            with suppress(OSError):  # a cache that cannot be written only costs the time to look again
                with atomic_file(file, durable=False) as out:
                    out.write(json.dumps(_to_json(known[models])).encode())
        return known[models]

    return scanned


def _to_json(structure: Any) -> Any:
    """Sets become lists, and the sets of required packages that are keys become texts."""
    if not isinstance(structure, dict):
        return sorted(structure)
    return {
        key if isinstance(key, str) else _REQUIRES + ",".join(sorted(key)): _to_json(value)
        for key, value in structure.items()
    }


def _from_json(found: dict[str, Any]) -> dict[Any, Any]:
    return {
        frozenset(filter(None, key.removeprefix(_REQUIRES).split(",")))
        if key.startswith(_REQUIRES)
        else key: (set(value) if isinstance(value, list) else value)
        for key, value in found.items()
    }
