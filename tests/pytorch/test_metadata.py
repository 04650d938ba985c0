# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of PyTorch and ONNX models: what was given, completed with versions, in the model and after a round trip."""

import copy
import pickle
import platform

import onnx
import pytest
import torch
from torch import nn

from mct_quantizers import __version__
from mct_quantizers.common.metadata import verify_and_init_metadata
from mct_quantizers.pytorch.metadata import add_metadata, add_onnx_metadata, get_metadata, get_onnx_metadata


def onnx_model():
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))


def test_versions_are_added_in_place_and_given_ones_kept():
    metadata = {"answer": 42, "mctq_version": "0.0.0"}
    assert verify_and_init_metadata(metadata) is metadata
    assert metadata["mctq_version"] == "0.0.0"
    assert metadata["python_version"].startswith(platform.python_version())
    assert verify_and_init_metadata()["mctq_version"] == __version__


@pytest.mark.parametrize("bad", [5, [("a", 1)], {1: "a"}, {"a": {2: 3}}], ids=str)
def test_what_is_no_dictionary_by_text_is_refused_unchanged(bad):
    before = copy.deepcopy(bad)
    with pytest.raises(TypeError, match=r"`metadata.*` must .* Received"):
        verify_and_init_metadata(bad)
    assert bad == before


@pytest.mark.parametrize("value", [b"bytes", (1, 2), [1, (2,)], {"inner": object}], ids=str)
def test_a_value_that_files_may_not_hold_warns(value):
    with pytest.warns(UserWarning, match="for 'key'"):
        assert verify_and_init_metadata({"key": value})["key"] is value


def test_metadata_of_a_model_survives_copies():
    metadata = {"name": "net", "layers": [1, 2.5, "three"], "nested": {"yes": True}}
    model = add_metadata(nn.Linear(2, 2), metadata)
    for found in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert get_metadata(found) == {
            **{"name": "net", "layers": [1, 2.5, "three"], "nested": {"yes": True}},
            **{key: get_metadata(model)[key] for key in ("python_version", "mctq_version")},
            "framework_version": torch.__version__,
        }
    assert get_metadata(nn.Linear(2, 2)) == {}
    with pytest.raises(TypeError, match="`model` must be"):
        add_metadata("model", {})


def test_metadata_of_an_onnx_model_survives_bytes_and_replaces():
    model = onnx_model()
    add_onnx_metadata(model, {"name": "net", "raw": b"bytes"})
    add_onnx_metadata(model, {"name": "other"})
    read = get_onnx_metadata(onnx.load_from_string(model.SerializeToString()))
    assert (read["name"], read["raw"]) == ("other", "bytes")
    assert (read["onnx_version"], read["mctq_version"]) == (onnx.__version__, __version__)
    assert len(model.metadata_props) == len(read)


def test_an_onnx_value_that_is_no_text_is_refused_before_anything_is_written():
    model = onnx_model()
    with pytest.raises(TypeError, match=r"text or bytes\. Received: number=3"):
        add_onnx_metadata(model, {"name": "net", "number": 3})
    assert get_onnx_metadata(model) == {}
    with pytest.raises(TypeError, match=r"onnx\.ModelProto"):
        add_onnx_metadata("model", {})
