# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from model_compression_toolkit.exporter import ExportFormat
from model_compression_toolkit.exporter.common.format import format_of


@pytest.mark.parametrize("name", ["a.onnx", "A.ONNX", "folder.safetensors/a.onnx"])
def test_suffix_tells_the_format(name):
    assert format_of(name) is ExportFormat.ONNX


@pytest.mark.parametrize("name", ["a", "a.pt", "onnx", ".onnx", "a.onnx.zip", "a.onnx "])
def test_unknown_suffix_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"\.onnx.*\.safetensors.*Received"):
        format_of(name)
