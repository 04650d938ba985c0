# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The two wings are mirror images: the same files, classes, arguments and defaults, but for the framework's words."""

import importlib
import inspect
from pathlib import Path

import pytest

import mct_quantizers

pytest.importorskip("torch")
pytest.importorskip("keras.layers")
pytestmark = pytest.mark.keras

PACKAGE = Path(mct_quantizers.__file__).parent
ONLY_PYTORCH_FILES = {
    "attribute_forwarding.py",  # Keras layers are asked through `wrapper.layer`
    "onnx_ops.py",  # operators of ONNX files, which are written from PyTorch
    "onnx_nodes.py",
    "onnxruntime_validations.py",
    "model_description.py",  # what a file says of a model; Keras models describe themselves
    "model_rebuild.py",
}
ONLY_KERAS_FILES = {
    "function_layer.py",  # a Keras wrapper holds layers only, and a function must become one
    "quantizer_record.py",  # the state of PyTorch's quantizers is in every state_dict
}
WORDS = {"Pytorch": "Framework", "PyTorch": "Framework", "Keras": "Framework", "pytorch": "framework"}
WORDS |= {"keras": "framework"}
FRAMEWORK_WORDS = {
    # torch's word: Keras's word
    "module": "layer",
    "forward": "call",
    "__call__": "call",
    "extra_repr": "__repr__",
}
ONLY_PYTORCH = {
    "Float32StateModule",  # Keras quantizers hold no tensors that a cast could reach
    "add_onnx_metadata",
    "get_onnx_metadata",
    "train",  # the mode of a module; Keras gives it to every call
    "pytorch_save_quantized_model",  # Keras models save themselves
    "enable_custom_impl",
    "enable_reuse_quantizer",
    "disable_reuse_quantizer",
    # the interface's helpers for torch tensors
    "fix_range_to_include_zero",
    "get_working_device",
    "to_torch_tensor",
}
ONLY_KERAS = {
    "compiled",
    # tables without a search, for what compilers make of it
    "Assignment",
    "assignment_of",
    "lut_quantize",
    "PACKAGE",
    "deserialized",  # what Keras wrote
    "quantizer_classes",
    "MetadataLayer",
    "METADATA_FILE",
    # what Keras asks of every layer and every object that it saves
    "build",
    "get_config",
    "from_config",
    "compute_mask",
    "save_own_variables",
    "load_own_variables",
    "compute_output_shape",
    "compute_output_spec",
    # properties, because Keras replaces the containers that are fields of a layer
    "weights_quantizers",
    "weight_values",
    "op_call_args",
    "op_call_kwargs",
    "params",
}


def files(wing: str) -> set[str]:
    root = PACKAGE / wing
    return {path.relative_to(root).as_posix() for path in root.rglob("*.py")}


COMMON_FILES = sorted((files("pytorch") & files("keras")) - {"__init__.py"})


def neutral(name: str) -> str:
    for word, replacement in WORDS.items():
        name = name.replace(word, replacement)
    return FRAMEWORK_WORDS.get(name, name)


def module_of(wing: str, file: str):
    dotted = f"mct_quantizers.{wing}.{file.removesuffix('.py').replace('/', '.')}"
    return importlib.import_module(dotted.removesuffix(".__init__"))


def own_public_names(module) -> dict:
    """Public classes and functions that the module defines, by their neutral names."""
    return {
        neutral(name): value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
        and name not in ONLY_PYTORCH | ONLY_KERAS
    }


def arguments_of(function) -> list[tuple]:
    """Name, default and kind of each argument, without the framework's own keyword arguments."""
    return [
        (neutral(item.name), item.default, item.kind)
        for item in inspect.signature(function).parameters.values()
        if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)
    ]


def public_methods_of(cls) -> dict:
    """What the class itself defines, and the common classes below it."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("mct_quantizers")]
    found = {name: getattr(cls, name) for base in ours for name in vars(base)}
    return {
        neutral(name): value
        for name, value in found.items()
        if (not name.startswith("_") or name in FRAMEWORK_WORDS or name == "__repr__")
        and name not in ONLY_PYTORCH | ONLY_KERAS
        and callable(value)
        and not inspect.isclass(value)
    }


def test_the_same_files():
    assert files("pytorch") - ONLY_PYTORCH_FILES == files("keras") - ONLY_KERAS_FILES
    assert len(COMMON_FILES) >= 10


@pytest.mark.parametrize("file", COMMON_FILES)
def test_the_same_classes_and_functions(file):
    pytorch, keras = (own_public_names(module_of(wing, file)) for wing in ("pytorch", "keras"))
    assert sorted(pytorch) == sorted(keras)


@pytest.mark.parametrize("file", [file for file in COMMON_FILES if not file.endswith("__init__.py")])
def test_the_same_arguments_and_defaults(file):
    pytorch, keras = (own_public_names(module_of(wing, file)) for wing in ("pytorch", "keras"))
    for name, ours in pytorch.items():
        if file.endswith("load_model.py"):
            continue  # what a loader takes is in the interface, and differs: see test_interface_paths
        assert arguments_of(ours) == arguments_of(keras[name]), name


@pytest.mark.parametrize("file", COMMON_FILES)
def test_the_same_methods_with_the_same_arguments(file):
    pytorch, keras = (own_public_names(module_of(wing, file)) for wing in ("pytorch", "keras"))
    for name, ours in pytorch.items():
        if not inspect.isclass(ours):
            continue
        mine, theirs = public_methods_of(ours), public_methods_of(keras[name])
        # Every torch module has a call already.
        assert set(mine) | {"call"} == set(theirs) | {"call"}, name
        for method in mine:
            if method not in ("call", "__repr__"):  # a call takes what the framework's layers take
                assert arguments_of(mine[method]) == arguments_of(theirs[method]), (name, method)


@pytest.mark.parametrize("name", mct_quantizers.pytorch_quantizers.__all__)
def test_the_same_marks(name):
    pytorch = getattr(mct_quantizers.pytorch_quantizers, name)
    keras = getattr(mct_quantizers.keras_quantizers, name.replace("PyTorch", "Keras"))
    for mark in ("quantization_target", "quantization_method", "identifier"):
        assert getattr(pytorch, mark, None) == getattr(keras, mark, None)


def test_the_public_names_of_the_package_are_the_same():
    names = set(mct_quantizers.__all__) - ONLY_PYTORCH - {"get_ort_session_options"}
    pytorch, keras = ({neutral(name) for name in names if word in name.lower()} for word in ("pytorch", "keras"))
    assert pytorch == keras
