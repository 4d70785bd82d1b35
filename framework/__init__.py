"""fw-transfer: how much of a pretrained vision backbone should move, and what does it cost?

The names below are the public interface, for scripts and for plugins alike. They are imported at first use, so that
``import framework`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework.additions import Adapter as Adapter
    from framework.additions import Finisher as Finisher
    from framework.additions import Regularizer as Regularizer
    from framework.api import Frozen as Frozen
    from framework.api import RunResult as RunResult
    from framework.api import freeze as freeze
    from framework.api import load as load
    from framework.api import run as run
    from framework.api import run_each as run_each
    from framework.component import Bounds as Bounds
    from framework.component import Component as Component
    from framework.component import Count as Count
    from framework.component import Family as Family
    from framework.component import Fraction as Fraction
    from framework.component import NonNegative as NonNegative
    from framework.component import PositiveFloat as PositiveFloat
    from framework.component import PositiveInt as PositiveInt
    from framework.component import key as key
    from framework.contracts import Backbone as Backbone
    from framework.contracts import BackboneRequest as BackboneRequest
    from framework.contracts import Data as Data
    from framework.contracts import FreezingPolicy as FreezingPolicy
    from framework.contracts import Grouping as Grouping
    from framework.contracts import ImageSource as ImageSource
    from framework.contracts import InputSpec as InputSpec
    from framework.contracts import Layout as Layout
    from framework.contracts import Moments as Moments
    from framework.contracts import NormMode as NormMode
    from framework.contracts import Pipeline as Pipeline
    from framework.contracts import Plan as Plan
    from framework.contracts import Progress as Progress
    from framework.contracts import Scheduler as Scheduler
    from framework.contracts import Split as Split
    from framework.contracts import Stage as Stage
    from framework.contracts import UnreadableImage as UnreadableImage
    from framework.contracts import WeightsInfo as WeightsInfo
    from framework.contracts import WeightsUnavailable as WeightsUnavailable
    from framework.digests import file_digests as file_digests
    from framework.errors import FwError as FwError
    from framework.errors import name_hints as name_hints
    from framework.hooks import hookimpl as hookimpl
    from framework.pictures import PICTURE_EXTENSIONS as PICTURE_EXTENSIONS
    from framework.pictures import read_picture as read_picture
    from framework.signatures import config_from_signature as config_from_signature
    from framework.signatures import recipe_arguments as recipe_arguments
    from framework.splits import cut_split as cut_split
    from framework.splits import make_data as make_data
    from framework.streams import stream_seed as stream_seed
    from framework.task import Task as Task
    from framework.tracing import output_shape as output_shape

_HOME = {
    "additions": ("Adapter", "Finisher", "Regularizer"),
    "api": ("Frozen", "RunResult", "freeze", "load", "run", "run_each"),
    "component": (
        "Bounds", "Component", "Count", "Family", "Fraction", "NonNegative", "PositiveFloat", "PositiveInt", "key",
    ),
    "contracts": (
        "Backbone", "BackboneRequest", "Data", "FreezingPolicy", "Grouping", "ImageSource", "InputSpec", "Layout",
        "Moments", "NormMode", "Pipeline", "Plan", "Progress", "Scheduler", "Split", "Stage", "UnreadableImage",
        "WeightsInfo", "WeightsUnavailable",
    ),
    "digests": ("file_digests",),
    "errors": ("FwError", "name_hints"),
    "pictures": ("PICTURE_EXTENSIONS", "read_picture"),
    "hooks": ("hookimpl",),
    "signatures": ("config_from_signature", "recipe_arguments"),
    "splits": ("cut_split", "make_data"),
    "streams": ("stream_seed",),
    "task": ("Task",),
    "tracing": ("output_shape",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'framework' has no attribute {name!r}")
    return getattr(import_module(f"framework.{module}"), name)


def __dir__() -> list[str]:
    return [*sorted(__all__), "__version__"]
