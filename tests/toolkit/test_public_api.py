# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The public names of every face, against a list that changes only on purpose."""

import importlib
import json
from pathlib import Path

import pytest

EXPECTED = json.loads(Path(__file__).with_name("public_api.json").read_text(encoding="utf-8"))
TOOLKIT = "model_compression_toolkit"
WINGS = {"mct_quantizers.pytorch.quantizers": "torch", "mct_quantizers.keras.quantizers": "keras.layers"}


@pytest.fixture(params=sorted(EXPECTED))
def face(request):
    if request.param in WINGS:
        pytest.importorskip(WINGS[request.param])
    return importlib.import_module(request.param)


def need_the_frameworks():
    for framework in WINGS.values():
        pytest.importorskip(framework)


def test_names_are_those_of_the_list(face):
    assert sorted(face.__all__) == EXPECTED[face.__name__]
    assert len(set(face.__all__)) == len(face.__all__)


def test_every_name_resolves(face):
    need_the_frameworks()
    for name in face.__all__:
        assert getattr(face, name) is not None
        assert getattr(face, name) is getattr(face, name)


def test_dir_shows_every_name(face):
    assert set(face.__all__) <= set(dir(face))


def test_every_public_class_and_function_says_what_it_is(face):
    need_the_frameworks()
    for name in face.__all__:
        value = getattr(face, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), name


def test_the_list_is_sorted_and_without_repetition():
    for names in EXPECTED.values():
        assert names == sorted(set(names))


def test_one_name_means_one_thing_everywhere():
    need_the_frameworks()
    objects = {}
    for module in EXPECTED:
        if module == "mct_quantizers.keras.quantizers":
            continue  # the mirror image has the names of the other wing
        for name in EXPECTED[module]:
            value = getattr(importlib.import_module(module), name)
            if name == "keras_load_quantized_model" and not module.startswith("mct_quantizers"):
                continue  # the toolkit's finds quantizers in training too
            if (module, name) in {(f"{TOOLKIT}.core", "QuantizationConfig"), (TOOLKIT, "logger")}:
                continue  # the interface's configuration has the name of the modern one; each package has a logger
            if module.endswith(".quantizers_infrastructure") and name in EXPECTED["mct_quantizers.keras.quantizers"]:
                continue  # there the short names are those of Keras
            assert objects.setdefault(name, value) is value, name
