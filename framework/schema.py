"""Schema: recipes and studies as JSON Schema, made from the index alone, by which editors complete and check them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from framework.bench.study import StudyKeys
from framework.component import first_doc_line
from framework.hooks import KINDS, Kind
from framework.index import Card, Index
from framework.recipe import AT_MOST_ONE, IN_ORDER, ONE_OF_EACH, PLAIN_WEIGHTS, WEIGHTS_SCHEMES, TopKeys
from framework.shapes import encode_class
from framework.tables import EngineTable, TrainTable, core_keys

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
FEWEST = {"scheduler": 1, "metric": 0}
"""The tables that may be arrays of tables, with the fewest items of each."""
MOMENTS = ("train", "eval")
"""The tables of `[transform]`."""
POLICY = "policy"
"""The definition of what a study compares: a table of `[freezing]` with what is added to it."""
_PLAIN: Mapping[str, Schema] = {
    "bool": {"type": "boolean"}, "int": {"type": "integer"}, "float": {"type": "number"}, "str": {"type": "string"},
    "path": {"type": "string"}, "weights": {"type": "string"}, "any": {}, "none": {"not": {}},
}  # fmt: skip
_LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_REMARKS = ("default", "description")
_INHERITS_NOTHING: Schema = {"not": {"required": ["extends"]}}


def schema_of(index: Index) -> Schema:
    """The schema of every recipe and study that can be written with the components of an index.

    It refuses what `fw validate` refuses, as far as one table shows it: what shows only when several are seen together
    (a metric to monitor that is not measured) passes, and so does `3.0` for an integer, which JSON does not tell from
    `3`. A recipe that extends another may lack what that one says. Components that lack a package are left out.

    Conditions stand in `if` and `then`, never in an `allOf` beside `properties`, which taplo would then not complete.
    """
    definitions: Schema = {}
    for kind in KINDS:
        cards = [card for card in index.cards(kind.registry) if not card.requires]
        definitions |= _definitions(kind, cards)
    return {
        "$schema": DIALECT,
        "title": "recipes and studies of fw-transfer",
        **_closed(_tables(definitions)),
        "if": {"required": ["study"]},
        "then": {"propertyNames": {"enum": ["study", "extends"]}, "if": _INHERITS_NOTHING,
                 "then": {"properties": {"study": _needed(encode_class(StudyKeys))}}},
        "else": {"if": _INHERITS_NOTHING, "then": _whole_recipe()},
        "$defs": definitions,
    }  # fmt: skip


def _tables(definitions: Schema) -> Schema:
    """What stands in a recipe or study, by key."""
    extends = {"type": "string", "description": "the recipe that this one changes: a path, or a shipped name"}
    moments = {name: {"$ref": "#/$defs/transform"} for name in MOMENTS}
    return {
        **_properties(encode_class(TopKeys)),
        "extends": extends,
        **{table: {"$ref": f"#/$defs/{table}"} for table in IN_ORDER},
        "transform": {"description": "the transforms of one image", **_closed(moments)},
        **{table: _one_or_several(table, definitions[table]) for table in FEWEST},
        "train": _table(TrainTable),
        "engine": _table(EngineTable),
        "study": _study(),
    }


def _whole_recipe() -> Schema:
    """What a recipe that extends none must say."""
    whole = {table: {"$ref": f"#/$defs/{table}-whole"} for table in (*IN_ORDER, *FEWEST, "transform")}
    moments = {"properties": dict.fromkeys(MOMENTS, whole["transform"])}
    return {"required": list(ONE_OF_EACH), "properties": {**whole, "transform": moments}}


def _study() -> Schema:
    schema = _table(StudyKeys)
    schema["properties"]["policies"]["items"] = _item_of("freezing", POLICY)
    return schema


def _one_or_several(table: str, schema: Schema) -> Schema:
    """A table, or an array of tables; an array takes the place of an inherited one, so that its items are whole."""
    return {**schema, "type": ["object", "array"], "items": _item_of(table), "minItems": FEWEST[table]}


def _item_of(table: str, definition: str = "") -> Schema:
    return {"allOf": [{"$ref": f"#/$defs/{definition or table}"}, {"$ref": f"#/$defs/{table}-whole"}]}


def _additions() -> Schema:
    """What a study's policy may carry, by table: the name of a component alone, or its table."""
    return {table: {"anyOf": [{"$ref": f"#/$defs/{table}/properties/use"}, _item_of(table)]} for table in AT_MOST_ONE}


# ---------------------------------------------------------------------------------------------- components


@attrs.frozen
class _Shape:
    """The components of a registry that have the same keys and the same doc.

    Attributes:
        label: of the definition that lists their names.
        fields: their keys, as `framework.shapes` encodes them.
        cards: they themselves.
    """

    label: str
    fields: Any
    cards: Sequence[Card]

    @property
    def names(self) -> Schema:
        """What holds of the name of one of them."""
        return {"$ref": f"#/$defs/{self.label}"}

    @property
    def used(self) -> Schema:
        """What holds of a table that names one of them."""
        return {"properties": {"use": self.names}}


def _definitions(kind: Kind, cards: Sequence[Card]) -> Schema:
    """The table of a kind, what it must say where nothing is inherited (`-whole`), and the names that it may use."""
    shapes = _shapes(kind, cards)
    return {
        **{shape.label: _names(shape.cards) for shape in shapes},
        kind.table: _component(kind, shapes, cards),
        **({POLICY: _component(kind, shapes, cards, _additions())} if kind.table == "freezing" else {}),
        f"{kind.table}-whole": _whole(kind, shapes),
    }


def _shapes(kind: Kind, cards: Sequence[Card]) -> list[_Shape]:
    groups: dict[str, list[Card]] = {}
    for card in cards:
        groups.setdefault(json.dumps([card.fields, card.doc]), []).append(card)
    return [_Shape(f"{kind.table}-names-{number}", group[0].fields, group)
            for number, group in enumerate(groups.values(), 1)]  # fmt: skip


def _names(cards: Sequence[Card]) -> Schema:
    doc = cards[0].doc
    return {**({"description": doc} if doc else {}), "enum": [card.name for card in cards]}


def _component(kind: Kind, shapes: Sequence[_Shape], cards: Sequence[Card], beside: Schema | None = None) -> Schema:
    """A table that names a component: all keys that any has, and then, by the name, those that it has itself.

    Args:
        kind, cards: the registry, and its components.
        shapes: the components by their keys.
        beside: keys that the table has besides, whatever it names.
    """
    core = {**_properties(encode_class(core_keys(kind.table))), **(beside or {})}
    keys = [_properties(shape.fields) for shape in shapes]
    every = dict.fromkeys(name for of in keys for name in of)
    common = {name: _common([of[name] for of in keys if name in of]) for name in every}
    conditions = [
        {"if": shape.used, "then": {"propertyNames": {"enum": ["use", *core, *of]}, **_beyond(common, of)}}
        for shape, of in zip(shapes, keys, strict=True)
    ]
    weights = list(_of_weights(cards)) if kind.table == "backbone" else []
    return {
        "description": f"the {kind.noun} and its keys",
        **_closed({"use": _any_of([shape.names for shape in shapes]), **core, **common}),
        "if": {"required": ["use"]},
        "then": {"allOf": [*conditions, *weights]} if conditions else {},
    }


def _whole(kind: Kind, shapes: Sequence[_Shape]) -> Schema:
    core = _needed(encode_class(core_keys(kind.table)))
    by_shape = [(shape, _needed(shape.fields)) for shape in shapes]
    conditions = [{"if": shape.used, "then": needed} for shape, needed in by_shape if needed]
    named = {"if": {"required": ["use"]}, "then": {"allOf": conditions}} if conditions else {}
    return {**core, "required": ["use", *core.get("required", [])], **named}


def _common(schemas: Sequence[Schema]) -> Schema:
    """What holds of a key in each component that has it."""
    first, *others = schemas
    shared = {word: value for word, value in first.items() if all(other.get(word) == value for other in others)}
    kinds = [{word: value for word, value in schema.items() if word not in _REMARKS} for schema in schemas]
    return {**shared, **_any_of(kinds)}


def _beyond(common: Schema, own: Schema) -> Schema:
    """What a component's keys say beyond what is common to all components with such keys."""
    further = {
        name: {word: value for word, value in schema.items() if common[name].get(word) != value}
        for name, schema in own.items()
    }
    told = {name: schema for name, schema in further.items() if schema}
    return {"properties": told} if told else {}


def _of_weights(cards: Sequence[Card]) -> Iterator[Schema]:
    """That a source of weights is one that the backbone has, or a place."""
    yield {"properties": {"weights": {"minItems": 1}}}
    place = {"pattern": f"^({'|'.join(WEIGHTS_SCHEMES)})"}
    names: dict[tuple[str, ...], list[str]] = {}
    for card in cards:
        names.setdefault(card.choices.get("weights", ()), []).append(card.name)
    for known, models in names.items():
        source = {"anyOf": [{"enum": [*known, *PLAIN_WEIGHTS]}, place]}
        yield {"if": {"properties": {"use": {"enum": models}}}, "then": {"properties": {"weights": {"items": source}}}}


# ---------------------------------------------------------------------------------------------- keys and types


def _table(config: type[Any]) -> Schema:
    return {"description": first_doc_line(config), **_closed(_properties(encode_class(config)))}


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _properties(fields: Any) -> Schema:
    return {name: _key(code, required, default, doc) for name, code, required, default, doc in fields}


def _key(code: Any, required: bool, default: Any, doc: str) -> Schema:
    stated = not required and default is not None and _is_json(default)
    return {**({"description": doc} if doc else {}), **type_schema(code), **({"default": default} if stated else {})}


def _is_json(value: Any) -> bool:
    """Whether JSON can hold a value; it knows no infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def type_schema(code: Any) -> Schema:
    """What a type accepts, where something may be inherited.

    Args:
        code: the type, as `framework.shapes.encode_type` encodes it.
    """
    if isinstance(code, str):
        return dict(_PLAIN[code])
    ((what, inner),) = code.items()
    if what == "bounds":
        kind, bounds = inner
        limits = {_LIMITS[name]: limit for name, limit in bounds.items() if limit is not None and _is_json(limit)}
        return {**type_schema(kind), **limits}
    if what == "literal":
        return {"enum": list(inner)}
    if what == "any_of":
        return _any_of([type_schema(arm) for arm in inner if arm != "none"])  # TOML has no null
    if what == "many":
        return {"type": "array", "items": _item(inner)}
    if what == "fixed":
        return {"type": "array", **_items(inner), "minItems": len(inner), "maxItems": len(inner)}
    if what == "dict":
        return {"type": "object", "additionalProperties": type_schema(inner)}
    return _closed(_properties(inner))


def _items(codes: Sequence[Any]) -> Schema:
    """Items of a fixed number; `items` is understood by more editors than `prefixItems`."""
    items = [_item(code) for code in codes]
    return {"items": items[0]} if all(item == items[0] for item in items) else {"prefixItems": items}


def _item(code: Any) -> Schema:
    """An item of an array, which inherits nothing."""
    needed = _needed_in(code)
    return {"allOf": [type_schema(code), needed]} if needed else type_schema(code)


def _any_of(schemas: Sequence[Schema]) -> Schema:
    kept = [schema for number, schema in enumerate(schemas) if schema not in schemas[:number]]
    if len(kept) == 1:
        return kept[0]
    if not kept or any(set(schema) != {"type"} or not isinstance(schema["type"], str) for schema in kept):
        return {"anyOf": kept} if kept else {"not": {}}
    names = [schema["type"] for schema in kept]
    wide = [name for name in names if name != "integer" or "number" not in names]
    return {"type": wide[0] if len(wide) == 1 else wide}


def _needed(fields: Any) -> Schema:
    """The keys that a table cannot be without, where it inherits none; and those of the tables inside it."""
    required = [name for name, _, is_required, *_ in fields if is_required]
    inner = {name: needed for name, code, *_ in fields if (needed := _needed_in(code))}
    return {**({"required": required} if required else {}), **({"properties": inner} if inner else {})}


def _needed_in(code: Any) -> Schema:
    arms = code["any_of"] if isinstance(code, dict) and "any_of" in code else [code]
    tables = [arm["table"] for arm in arms if isinstance(arm, dict) and "table" in arm]
    return _needed(tables[0]) if len(tables) == 1 else {}
