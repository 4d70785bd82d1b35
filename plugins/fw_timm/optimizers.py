"""timm's optimizers: the family `timm/<optimizer>`, with the defaults of timm's own factory."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs

import framework as fw
from fw_training.optimizers import optimizer_config, steps_alone


def optimizer_family() -> fw.Family:
    """The family `timm/<optimizer>`: timm's list without those that fail the trial of `steps_alone`.

    Defaults are those of `timm.optim.create_optimizer_v2`: the registry's, `weight_decay` 0, and `momentum` 0.9 where
    there is one. An optimizer whose package is not installed stays listed, with what to install.
    """
    return fw.Family("timm", _names, _member)


def _names() -> Sequence[str]:
    return [name for name in _listed() if _usable(name)]


def _listed() -> list[str]:
    names: list[str] = importlib.import_module("timm.optim").list_optimizers()
    return names


def _usable(name: str) -> bool:
    info = _info(name)
    # Optimizers of other packages need their own device, so that a trial here would say nothing.
    return isinstance(info.opt_class, str) or steps_alone(_constructor(info, info.opt_class))


def _member(name: str) -> fw.Component:
    info = _info(name)
    try:
        config = optimizer_config(name, _constructor(info, _library_class(info)), doc=info.description or name)
    except ImportError:
        package = info.opt_class.partition(".")[0]
        return fw.Component(f"timm/{name}", _absent(name, info, package), requires=f"install {package}")
    return fw.Component(f"timm/{name}", config)


def _info(name: str) -> Any:
    try:
        return importlib.import_module("timm.optim").get_optimizer_info(name)
    except ValueError:
        hints = fw.name_hints(name, _listed(), "optimizers")
        raise fw.FwError(f"timm.optim has no optimizer {name!r}", "; ".join(hints)) from None


def _library_class(info: Any) -> Callable[..., Any]:
    if not isinstance(info.opt_class, str):
        library: Callable[..., Any] = info.opt_class
        return library
    module, _, name = info.opt_class.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _constructor(info: Any, library: Callable[..., Any]) -> Callable[..., Any]:
    factory = {"weight_decay": 0.0, **({"momentum": 0.9} if info.has_momentum else {}), **(info.defaults or {})}
    known = inspect.signature(library).parameters
    return partial(library, **{name: value for name, value in factory.items() if name in known})


@attrs.frozen(kw_only=True)
class AbsentOptimizer:
    """An optimizer whose package is not installed; its further keys are known once it is."""

    package: ClassVar[str]
    lr: fw.PositiveFloat = fw.key(doc="learning rate")
    weight_decay: fw.NonNegative = fw.key(0.0, "weight decay")

    def build(self, groups: list[dict[str, Any]]) -> Any:
        """Says what to install."""
        name, package = type(self).__name__, type(self).package
        raise fw.FwError(f"[optimizer] timm/{name} needs the package {package}", f"install {package}")


def _absent(name: str, info: Any, package: str) -> type[AbsentOptimizer]:
    body = {"__doc__": info.description or name, "__module__": __name__, "package": package}
    return types.new_class(name, (AbsentOptimizer,), {}, lambda namespace: namespace.update(body))
