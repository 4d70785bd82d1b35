"""The plugin fw_training as the index sees it: every component listed, described and bindable by its card."""

from __future__ import annotations

import json
import time

import attrs

import fw_training
from framework.catalog import PluginSource
from framework.component import recipe_fields
from framework.index import build_index


def test_every_component_is_listed_with_a_doc_line_and_the_plugins_own_keys() -> None:
    start = time.perf_counter()
    index = build_index([PluginSource.of(fw_training, "fw_training")])
    (record,) = index.plugins
    print(f"{len(record.cards)} components indexed in {time.perf_counter() - start:.2f} s")
    assert not record.fault
    assert {card.registry for card in record.cards} == {"losses", "optimizers", "schedulers", "metrics"}
    catalog = index.catalog()
    for card in record.cards:
        assert card.doc, card.name
        json.dumps(card.fields)
        component = catalog.component(f"fw_{card.registry}", card.name)
        expected = [field.name for field in recipe_fields(component)]
        assert [field.name for field in attrs.fields(card.shape)] == expected, card.name
