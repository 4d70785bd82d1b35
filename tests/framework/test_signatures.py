"""Config classes from signatures: which arguments become keys, with which type and default."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

import attrs
import pytest
import torch

from framework.component import Bounds, config_fields
from framework.shapes import encode_class
from framework.signatures import config_from_signature, recipe_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nowhere import Unknown  # type: ignore[import-not-found]


class Plain:
    """A thing.

    More of it.
    """

    def __init__(self, params, momentum=0, betas=(0.9, 1), name="x", flag=False, limit=None, **rest):
        pass


class Stated:
    def __init__(
        self,
        *,
        lr: float | torch.Tensor,
        decay: float = 0,
        mode: Literal["min", "max"] = "min",
        steps: Optional[int] = None,  # noqa: UP045
        sizes: Union[list[int], tuple[int, int], int, None] = None,  # noqa: UP007
        stops: Iterable[int] = (),
        eps: tuple[float | None, float] = (None, 1e-3),
        dtype: str | torch.dtype = torch.bfloat16,
        function: Callable[[float], float] | None = None,
        either: str | Callable[[float], float] = "cosine",
        share: Annotated[float, Bounds(ge=0)] = 0.5,
        wrong: int = 0.5,  # type: ignore[assignment]
        odd: Unknown = 3,
    ) -> None:
        pass


def fields_of(config: type[Any]) -> dict[str, tuple[Any, Any]]:
    return {field.name: (field.type, field.default) for field in config_fields(config)}


def test_an_argument_without_annotation_takes_its_defaults_type() -> None:
    config = config_from_signature("Plain", Plain, skip={"params"})
    assert config.__doc__ == "A thing."
    assert fields_of(config) == {
        "momentum": (int | float, 0),
        "betas": (tuple[float, float], (0.9, 1)),
        "name": (str, "x"),
        "flag": (bool, False),
    }


def test_annotations_lose_what_a_recipe_cannot_state() -> None:
    fields = fields_of(config_from_signature("It", Stated))
    assert fields["lr"] == (float, attrs.NOTHING)
    assert fields["decay"] == (float, 0.0)
    assert type(fields["decay"][1]) is float
    assert fields["mode"] == (Literal["min", "max"], "min")
    assert fields["steps"] == (int | None, None)
    assert fields["sizes"] == (tuple[int, ...] | tuple[int, int] | int | None, None)
    assert "function" not in fields
    assert fields["either"] == (str, "cosine")
    assert fields["share"] == (Annotated[float, Bounds(ge=0)], 0.5)
    assert fields["wrong"] == (float, 0.5)


def test_one_annotation_that_cannot_be_evaluated_spoils_no_other() -> None:
    fields = fields_of(config_from_signature("It", Stated))
    assert fields["odd"] == (int | float, 3)
    assert fields["mode"][0] == Literal["min", "max"]


def test_a_default_that_toml_cannot_write_shows_as_absent_and_is_left_to_the_library() -> None:
    config = config_from_signature("It", Stated)
    assert fields_of(config)["eps"] == (tuple[float, float] | None, None)
    assert fields_of(config)["dtype"] == (str | None, None)
    assert "eps" not in recipe_arguments(config(lr=0.1))
    assert recipe_arguments(config(lr=0.1, eps=(0.1, 0.2)))["eps"] == (0.1, 0.2)


def test_names_imported_for_the_type_checker_alone_are_known() -> None:
    assert fields_of(config_from_signature("It", Stated))["stops"] == (tuple[int, ...] | None, None)
    milestones = fields_of(config_from_signature("It", torch.optim.lr_scheduler.MultiStepLR, skip={"optimizer"}))
    assert milestones["milestones"] == (tuple[int, ...], attrs.NOTHING)


def test_a_partial_has_its_own_defaults_and_the_constructors_types() -> None:
    config = config_from_signature("It", partial(torch.optim.SGD, momentum=0.9), skip={"params"}, doc="With momentum.")
    assert fields_of(config)["momentum"] == (float, 0.9)
    assert fields_of(config)["nesterov"] == (bool, False)
    assert config.__doc__ == "With momentum."


def test_a_required_argument_that_only_code_can_give_makes_it_impossible() -> None:
    with pytest.raises(TypeError, match="'lr_lambda' cannot be stated"):
        config_from_signature("It", torch.optim.lr_scheduler.LambdaLR, skip={"optimizer"})


def test_overrides_and_the_base_class() -> None:
    class Base:
        def build(self) -> dict[str, Any]:
            return recipe_arguments(self)

    config = config_from_signature("It", Plain, skip={"params"}, overrides={"limit": (int | None, None)}, base=Base)
    assert config(limit=3, flag=True).build() == {
        "momentum": 0, "betas": (0.9, 1), "name": "x", "flag": True, "limit": 3,
    }  # fmt: skip
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config().limit = 2


def test_every_optimizer_and_scheduler_of_torch_can_be_encoded() -> None:
    encoded = 0
    for library in (*vars(torch.optim).values(), *vars(torch.optim.lr_scheduler).values()):
        if isinstance(library, type) and issubclass(
            library, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
        ):
            with contextlib.suppress(TypeError):  # functions and schedulers as arguments
                config = config_from_signature(library.__name__, library, skip={"params", "optimizer", "defaults"})
                encode_class(config)
                encoded += 1
    print(f"{encoded} classes of torch encoded")
    assert encoded >= 25
