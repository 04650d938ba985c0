# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The two wings are mirror images: the same files, classes, arguments and defaults, but for the framework's words."""

import importlib
import inspect
from pathlib import Path

import pytest

import mct_quantizers
import model_compression_toolkit.trainable_infrastructure

pytest.importorskip("torch")
pytest.importorskip("keras.layers")
pytestmark = pytest.mark.keras

ROOMS = {
    module.__name__: Path(module.__file__).parent
    for module in (mct_quantizers, model_compression_toolkit.trainable_infrastructure)
}
ONLY_PYTORCH_FILES = {
    "grid_state.py",  # a Keras model is saved with the configuration of its quantizers
    "copying.py",  # Keras clones models by their configuration
    "attribute_forwarding.py",  # Keras layers are asked through `wrapper.layer`
    "dense_gradient.py",  # of torch's layers with sparse ones
    "fast_paths.py",  # of torch's transformer layers, which read weights past the layers
    "onnx_ops.py",  # operators of ONNX files, which are written from PyTorch
    "onnx_nodes.py",
    "onnxruntime_validations.py",
    "model_description.py",  # what a file says of a model; Keras models describe themselves
    "model_rebuild.py",
    "native/__init__.py",  # kernels for eager tensors on the CPU; Keras's backends have compilers of their own
    "native/library.py",
    "native/fake_quantize.py",
    "native/batch_norm.py",
    "native/histogram.py",
    "native/memory.py",
    "native/signatures.py",
    "private.py",  # of torch; the Keras wing asks no private part of Keras for how it runs
    "pending.py",  # what compilers of Keras's backends fuse, or store, by themselves
    "recomputation.py",
    "relative_state.py",  # what a state_dict shows; Keras's files hold variables as they are
    "steps.py",  # of training: the wrapped call of a Keras layer does not learn that a gradient came back
    "regularization.py",  # Keras adds what layers add to the loss by itself
}
ONLY_KERAS_FILES = {
    "function_layer.py",  # a Keras wrapper holds layers only, and a function must become one
    "quantizer_record.py",  # the state of PyTorch's quantizers is in every state_dict
    "tensorflow_checkpoint.py",  # one of the backends of Keras has checkpoints of its own
    "config_serialization.py",
    "quantize_wrapper.py",  # of the toolkit: PyTorch converts in place, and needs no wrapper of its own
    "load_model.py",
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
    "state_tensor",  # torch has a default dtype and device that a user may change
    "Float32StateModule",  # Keras quantizers hold no tensors that a cast could reach
    "add_onnx_metadata",
    "get_onnx_metadata",
    "train",  # the mode of a module; Keras gives it to every call
    "register_parameter",  # what quantizers ask of their layer has the framework's words
    "scale_gradient_by_error",  # a kernel in torch, an operation in Keras
    "register_backward_hook",  # torch's own, for whom values are computed that are left to a quantizer
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "regularization_loss",  # Keras adds what layers add to the loss by itself
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
    "add_weight",
    "as_tensor",  # TensorFlow reads a variable in every operation anew
    "GivesItsWeight",  # Keras makes a weight from its shape, torch takes the tensor
    # state in the configuration, not in a `state_dict`
    "config_serialization",
    "config_deserialization",
    "transform_enum",
    "KerasTrainableQuantizationWrapper",
    "BaseKerasQATTrainableQuantizer",  # an older name that PyTorch never had
    "compiled",
    # tables without a search, for what compilers make of it
    "Assignment",
    "assignment_of",
    "lut_quantize",
    "PACKAGE",
    "deserialized",  # what Keras wrote
    "quantizer_classes",
    "MetadataLayer",
    "ModelWithMetadata",
    "keep_metadata",
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


def files(room: str, wing: str) -> set[str]:
    root = ROOMS[room] / wing
    return {path.relative_to(root).as_posix() for path in root.rglob("*.py")}


COMMON_FILES = [
    (room, file)
    for room in ROOMS
    for file in sorted(files(room, "pytorch") & files(room, "keras"))
    if "init" not in file
]


def neutral(name: str) -> str:
    for word, replacement in WORDS.items():
        name = name.replace(word, replacement)
    return FRAMEWORK_WORDS.get(name, name)


def module_of(room: str, wing: str, file: str):
    return importlib.import_module(f"{room}.{wing}.{file.removesuffix('.py').replace('/', '.')}")


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
    ours = [base for base in cls.__mro__ if base.__module__.startswith(tuple(ROOMS))]
    found = {name: getattr(cls, name) for base in ours for name in vars(base)}
    return {
        neutral(name): value
        for name, value in found.items()
        if (not name.startswith("_") or name in FRAMEWORK_WORDS or name == "__repr__")
        and name not in ONLY_PYTORCH | ONLY_KERAS
        and callable(value)
        and not inspect.isclass(value)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_the_same_files(room):
    # A file that both have is compared, though another room may lack it.
    pytorch, keras = ({neutral(file) for file in files(room, wing)} for wing in ("pytorch", "keras"))
    assert pytorch - keras <= ONLY_PYTORCH_FILES
    assert keras - pytorch <= ONLY_KERAS_FILES
    assert len(pytorch & keras) >= 3


@pytest.mark.parametrize(("room", "file"), COMMON_FILES)
def test_the_same_classes_and_functions(room, file):
    pytorch, keras = (own_public_names(module_of(room, wing, file)) for wing in ("pytorch", "keras"))
    assert sorted(pytorch) == sorted(keras)


@pytest.mark.parametrize(("room", "file"), COMMON_FILES)
def test_the_same_arguments_and_defaults(room, file):
    pytorch, keras = (own_public_names(module_of(room, wing, file)) for wing in ("pytorch", "keras"))
    for name, ours in pytorch.items():
        if file.endswith("load_model.py"):
            continue  # what a loader takes is in the interface, and differs: see test_interface_paths
        assert arguments_of(ours) == arguments_of(keras[name]), name


@pytest.mark.parametrize(("room", "file"), COMMON_FILES)
def test_the_same_methods_with_the_same_arguments(room, file):
    pytorch, keras = (own_public_names(module_of(room, wing, file)) for wing in ("pytorch", "keras"))
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
