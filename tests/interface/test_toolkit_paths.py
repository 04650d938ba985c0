# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every public name and dotted path of training: it resolves, lazily, to one and the same object."""

import importlib
import importlib.util
import inspect
import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

import mct_quantizers
import model_compression_toolkit  # noqa: F401  # makes the moved paths importable
from mct_quantizers import _paths
from model_compression_toolkit import quantizers_infrastructure as qi
from model_compression_toolkit.trainable_infrastructure.common.node_quantization_dispatcher import (
    NodeQuantizationDispatcher,
)

TOOLKIT = "model_compression_toolkit"
WINGS = {"keras": "Keras", "pytorch": "Pytorch"}
SYMMETRIC_ACTIVATIONS = "STESymmetricActivationTrainableQuantizer LSQSymmetricActivationTrainableQuantizer"
UNIFORM_ACTIVATIONS = "STEUniformActivationTrainableQuantizer LSQUniformActivationTrainableQuantizer"
ACTIVATIONS = f"{SYMMETRIC_ACTIVATIONS} {UNIFORM_ACTIVATIONS}"
CONFIGS = "TrainableQuantizerWeightsConfig TrainableQuantizerActivationConfig"
NODE_CONFIGS = "NodeWeightsQuantizationConfig NodeActivationQuantizationConfig"
ELEMENTARY = (
    "ste_round ste_clip grad_scale adjust_range_to_include_zero symmetric_quantizer uniform_quantizer "
    "symmetric_lsq_quantizer uniform_lsq_quantizer"
)
CONSTANTS = {
    "THRESHOLD": "threshold",
    "SIGNED": "is_signed",
    "RANGE_MIN": "range_min",
    "RANGE_MAX": "range_max",
    "WEIGHTS_SIGNED": True,
    "MIN_THRESHOLD": 2**-16,
    "EPS": 1e-8,
    "LUT_VALUES_BITWIDTH": 8,
    "TENSORFLOW": "tensorflow",
    "PYTORCH": "pytorch",
}
VARIABLE_NAMES = {
    "FQ_MIN": "min",
    "FQ_MAX": "max",
    "THRESHOLD_TENSOR": "ptq_threshold_tensor",
    "WEIGHTS_QUANTIZATION_PARAMS": "weights_quantization_params",
}


def wing_paths(wing: str, prefix: str) -> dict[str, str]:
    """What the interface promises of both wings."""
    base, activation = f"Base{prefix}TrainableQuantizer", f"Base{prefix}ActivationTrainableQuantizer"
    weight = f"Base{prefix}QATWeightTrainableQuantizer"
    builder = "quantization_builder get_activation_quantizer_holder"
    tables = "METHOD2WEIGHTQUANTIZER METHOD2ACTQUANTIZER"
    infrastructure, qat = f"trainable_infrastructure.{wing}", f"qat.{wing}.quantizer"
    return {
        f"{infrastructure}.base_{wing}_quantizer": base,
        f"{infrastructure}.quantizer_utils": ELEMENTARY,
        f"{infrastructure}.annealing_schedulers": f"{prefix}LinearAnnealingScheduler",
        f"{infrastructure}.activation_quantizers": f"{activation} {ACTIVATIONS}",
        f"{infrastructure}.activation_quantizers.base_activation_quantizer": activation,
        **{
            f"{infrastructure}.activation_quantizers.{kind.lower()}.{grid.lower()}_{kind.lower()}": (
                f"{kind}{grid}ActivationTrainableQuantizer"
            )
            for kind in ("STE", "LSQ")
            for grid in ("Symmetric", "Uniform")
        },
        qat: "STEWeightQATQuantizer STEUniformWeightQATQuantizer LSQWeightQATQuantizer LSQUniformWeightQATQuantizer",
        f"{qat}.base_{wing}_qat_weight_quantizer": weight,
        f"{qat}.ste_rounding.symmetric_ste": "STEWeightQATQuantizer",
        f"{qat}.ste_rounding.uniform_ste": "STEUniformWeightQATQuantizer",
        f"{qat}.lsq.symmetric_lsq": "LSQWeightQATQuantizer",
        f"{qat}.lsq.uniform_lsq": "LSQUniformWeightQATQuantizer",
        f"{qat}.DQA.dqa_uniform": "DQAUniformWeightQuantizer",
        f"{qat}.quantization_builder": f"{builder} {tables}",
        f"{qat}.quantization_dispatcher_builder": tables,
        f"{qat}.quant_utils": "ste_round grad_scale adjust_range_to_include_zero",
        f"quantizers_infrastructure.{wing}.base_{wing}_quantizer": base,
        f"quantizers_infrastructure.{wing}.quantize_wrapper": f"{prefix}QuantizationWrapper",
        f"quantizers_infrastructure.{wing}.load_model": f"{wing}_load_quantized_model",
        f"quantizers_infrastructure.{wing}.inferable_quantizers": "WeightsPOTInferableQuantizer",
    }


QI = (
    "QuantizationTarget QuantizationMethod BaseInferableQuantizer mark_quantizer BaseTrainableQuantizer "
    "keras_inferable_quantizers pytorch_inferable_quantizers BaseKerasTrainableQuantizer BasePytorchTrainableQuantizer "
    "BaseKerasInferableQuantizer BasePyTorchInferableQuantizer KerasQuantizationWrapper PytorchQuantizationWrapper "
    "KerasNodeQuantizationDispatcher PytorchNodeQuantizationDispatcher keras_load_quantized_model TrainingMethod "
    "WeightsPOTInferableQuantizer WeightsSymmetricInferableQuantizer WeightsUniformInferableQuantizer "
    "ActivationPOTInferableQuantizer ActivationSymmetricInferableQuantizer ActivationUniformInferableQuantizer "
    f"{CONFIGS} {NODE_CONFIGS}"
)
PATHS = {
    "": "TrainingMethod QATConfig keras_load_quantized_model quantizers_infrastructure trainable_infrastructure qat",
    "constants": " ".join(CONSTANTS),
    "trainable_infrastructure": (
        f"{CONFIGS} TrainingMethod FOUND_TORCH FOUND_TF BaseKerasTrainableQuantizer KerasTrainableQuantizationWrapper "
        f"BasePytorchTrainableQuantizer BasePytorchActivationTrainableQuantizer {ACTIVATIONS}"
    ),
    "trainable_infrastructure.common.base_trainable_quantizer": "BaseTrainableQuantizer VariableGroup VAR GROUP",
    "trainable_infrastructure.common.trainable_quantizer_config": f"{CONFIGS} TrainableQuantizerCandidateConfig",
    "trainable_infrastructure.common.training_method": "TrainingMethod",
    "trainable_infrastructure.common.constants": " ".join(VARIABLE_NAMES),
    "trainable_infrastructure.common.get_quantizers": "get_trainable_quantizer_class",
    "trainable_infrastructure.common.get_quantizer_config": (
        "get_trainable_quantizer_weights_config get_trainable_quantizer_activation_config "
        "get_trainable_quantizer_quantization_candidates"
    ),
    "trainable_infrastructure.common.quant_utils": "get_threshold_reshape_shape",
    "trainable_infrastructure.common.annealing_schedulers": "BaseLinearAnnealingScheduler",
    "trainable_infrastructure.common.util": "get_total_grad_steps",
    **wing_paths("pytorch", "Pytorch"),
    **wing_paths("keras", "Keras"),
    "trainable_infrastructure.keras.base_keras_quantizer": "BaseKerasTrainableQuantizer QUANTIZATION_CONFIG",
    "trainable_infrastructure.keras.config_serialization": (
        "config_serialization config_deserialization transform_enum"
    ),
    "trainable_infrastructure.keras.quantize_wrapper": "KerasTrainableQuantizationWrapper",
    "trainable_infrastructure.keras.load_model": "keras_load_quantized_model",
    "trainable_infrastructure.keras.quantizer_utils": f"int_quantization_with_threshold {ELEMENTARY}",
    "qat": (
        "QATConfig pytorch_quantization_aware_training_init_experimental "
        "pytorch_quantization_aware_training_finalize_experimental "
        "keras_quantization_aware_training_init_experimental keras_quantization_aware_training_finalize_experimental"
    ),
    "qat.common": "THRESHOLD_TENSOR WEIGHTS_QUANTIZATION_PARAMS",
    "qat.common.qat_config": "QATConfig is_qat_applicable TrainingMethod",
    "qat.keras.quantizer.base_keras_qat_quantizer": "BaseKerasQATTrainableQuantizer",
    "quantizers_infrastructure": QI,
    "quantizers_infrastructure.common.base_inferable_quantizer": (
        "mark_quantizer QuantizationTarget BaseInferableQuantizer"
    ),
    "quantizers_infrastructure.common.base_trainable_quantizer": "BaseTrainableQuantizer",
    "quantizers_infrastructure.common.trainable_quantizer_config": CONFIGS,
    "quantizers_infrastructure.keras.base_Keras_quantizer": "BaseKerasTrainableQuantizer",
    "core.common.quantization.node_quantization_config": NODE_CONFIGS,
    "core.common.target_platform": "QuantizationMethod",
}
# One word, two things: a class of each framework, the loader of the runtime and the one for models in training.
TWO_MEANINGS = {*ACTIVATIONS.split(), *ELEMENTARY.split()}
MOVED = sorted(path for path in _paths.HOME_OF if path.startswith(f"{TOOLKIT}."))


def dotted(path: str) -> str:
    return f"{TOOLKIT}.{path}".rstrip(".")


def frameworks_of(text: str) -> list[str]:
    """The frameworks that a path or name needs. The short names of the oldest form are Keras's."""
    found = [name for word, name in (("ytorch", "torch"), ("yTorch", "torch"), ("eras", "keras")) if word in text]
    if text.startswith("trainable_infrastructure ") and text.endswith("ActivationTrainableQuantizer"):
        found = found or ["torch"]
    if text.startswith("quantizers_infrastructure ") and text.endswith("InferableQuantizer"):
        found = found or ([] if text.endswith("BaseInferableQuantizer") else ["keras"])
    return found


def marked(*values: str):
    """A test parameter, left to the runs of the Keras backends where it needs Keras."""
    text = " ".join(values)
    return pytest.param(*values, marks=[pytest.mark.keras] if "keras" in frameworks_of(text) else [], id=text)


def need(text: str) -> None:
    """Skip what needs a framework that is not installed."""
    for framework in frameworks_of(text):
        if getattr(importlib.util.find_spec(framework), "origin", None) is None:
            pytest.skip(f"{framework} is not installed")


def run(code: str) -> str:
    """Standard output of `code` in a fresh interpreter."""
    process = subprocess.run(  # our own code
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


# They resolve.


@pytest.mark.parametrize(
    ("path", "name"), [marked(path, name) for path, names in PATHS.items() for name in names.split()]
)
def test_every_name_of_the_interface_resolves(path, name):
    need(f"{path} {name}")
    namespace: dict = {}
    exec(f"from {dotted(path)} import {name}", namespace)  # what a user writes
    found = namespace[name]
    assert found is getattr(importlib.import_module(dotted(path)), name)
    if isinstance(found, type) or inspect.isfunction(found):
        # No stand-in: the module that the object names as its own holds it.
        assert getattr(importlib.import_module(found.__module__), found.__name__) is found
        assert (found.__doc__ or "").strip()


@pytest.mark.parametrize(("name", "value"), [*CONSTANTS.items(), *VARIABLE_NAMES.items()])
def test_constants_have_the_values_of_the_interface(name, value):
    module = importlib.import_module(f"{TOOLKIT}.constants")
    assert getattr(module, name) == value
    assert type(getattr(module, name)) is type(value) or name == "MIN_THRESHOLD"


def test_words_of_variables_and_groups_have_their_values():
    from model_compression_toolkit.trainable_infrastructure.common import base_trainable_quantizer as base

    assert (base.VAR, base.GROUP) == ("var", "group")
    assert [(item.name, item.value) for item in base.VariableGroup] == [("WEIGHTS", 0), ("QPARAMS", 1)]
    from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod

    assert {"STE", "DQA", "LSQ"} <= set(TrainingMethod)
    assert len({TrainingMethod.STE, TrainingMethod.DQA, TrainingMethod.LSQ}) == 3


@pytest.mark.keras
def test_the_configuration_of_keras_has_its_key():
    need("keras")
    from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import QUANTIZATION_CONFIG

    assert QUANTIZATION_CONFIG == "quantization_config"


ARGUMENTS = {
    "trainable_infrastructure.common.quant_utils.get_threshold_reshape_shape": "tensor_shape quant_axis quant_axis_dim",
    "trainable_infrastructure.common.util.get_total_grad_steps": "representative_data_gen",
    "trainable_infrastructure.common.get_quantizers.get_trainable_quantizer_class": (
        "quant_target quantizer_id quant_method quantizer_base_class"
    ),
    "trainable_infrastructure.common.get_quantizer_config.get_trainable_quantizer_weights_config": (
        "n attr_name weights_quantization_candidates=None"
    ),
    "trainable_infrastructure.common.get_quantizer_config.get_trainable_quantizer_activation_config": (
        "n activation_quantization_candidates=None"
    ),
    "trainable_infrastructure.common.get_quantizer_config.get_trainable_quantizer_quantization_candidates": (
        "n attr=None"
    ),
    "trainable_infrastructure.common.annealing_schedulers.BaseLinearAnnealingScheduler": (
        "t_start t_end initial_val target_val"
    ),
    "trainable_infrastructure.keras.load_model.keras_load_quantized_model": (
        "filepath custom_objects=None compile=True options=None"
    ),
    "qat.QATConfig": (
        "weight_training_method activation_training_method weight_quantizer_params_override=None "
        "activation_quantizer_params_override=None"
    ),
    "qat.pytorch.quantizer.quantization_builder.quantization_builder": "n qat_config kernel_attr=None",
    "qat.keras.quantizer.quantization_builder.quantization_builder": "n qat_config kernel_attr=None",
    "qat.keras.quantizer.quantization_builder.get_activation_quantizer_holder": "n qat_config",
    "qat.pytorch.quantizer.quantization_builder.get_activation_quantizer_holder": "n qat_config holder_type",
    "quantizers_infrastructure.mark_quantizer": (
        "quantization_target=None quantization_method=None identifier=None quantizer_type=None"
    ),
    "quantizers_infrastructure.KerasNodeQuantizationDispatcher": "weight_quantizers=None activation_quantizers=None",
}


@pytest.mark.parametrize(("path", "arguments"), [marked(path, arguments) for path, arguments in ARGUMENTS.items()])
def test_functions_take_the_arguments_of_the_interface(path, arguments):
    need(path)
    module, _, name = dotted(path).rpartition(".")
    actual = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    words = [str(item.replace(annotation=inspect.Parameter.empty)) for item in actual]
    promised = arguments.split()
    assert [word.partition("=")[0] for word in words[: len(promised)]] == [word.partition("=")[0] for word in promised]
    for word, promise in zip(words, promised, strict=False):
        assert word == promise or "=" not in promise, (word, promise)
    # More may follow, if it need not be given.
    assert all("=" in word for word in words[len(promised) :])


# They are the same objects, in every way of importing.


@pytest.mark.parametrize("wing", [marked(wing) for wing in WINGS])
def test_one_name_means_one_object_on_every_path(wing):
    need(wing)
    found: dict = {}
    for path, names in PATHS.items():
        for name in names.split():
            needed = frameworks_of(f"{path} {name}")
            if needed and needed != [wing.replace("py", "")]:
                continue
            value = getattr(importlib.import_module(dotted(path)), name)
            # What a face shows without a framework's name is another framework's.
            key = (name, path == "trainable_infrastructure") if name in TWO_MEANINGS and wing == "keras" else name
            if isinstance(value, ModuleType):
                continue
            if name.endswith("_load_quantized_model"):
                # Two things: the loader of the runtime, and the one for models in training too.
                key = (name, value.__module__)
            assert found.setdefault(key, value) is value, (path, name)
    assert len(found) > 40


@pytest.mark.parametrize("wing", [marked(wing) for wing in WINGS])
def test_old_bases_are_the_bases_of_today(wing):
    need(wing)
    home = importlib.import_module(f"{TOOLKIT}.trainable_infrastructure.{wing}.base_{wing}_quantizer")
    base = getattr(home, f"Base{WINGS[wing]}TrainableQuantizer")
    for path in (f"quantizers_infrastructure.{wing}.base_{wing}_quantizer", "quantizers_infrastructure"):
        assert getattr(importlib.import_module(dotted(path)), base.__name__) is base
    for name in ("Activation", "QATWeight"):
        derived = getattr(home, f"Base{WINGS[wing]}{name}TrainableQuantizer")
        assert issubclass(derived, base)
        assert derived is not base


@pytest.mark.keras
def test_the_older_qat_base_of_keras_is_one_of_all_quantizers_in_training():
    need("keras")
    from model_compression_toolkit.qat.keras.quantizer.base_keras_qat_quantizer import BaseKerasQATTrainableQuantizer
    from model_compression_toolkit.qat.keras.quantizer.base_keras_qat_weight_quantizer import (
        BaseKerasQATWeightTrainableQuantizer,
    )

    assert issubclass(BaseKerasQATTrainableQuantizer, qi.BaseKerasTrainableQuantizer)
    assert issubclass(BaseKerasQATWeightTrainableQuantizer, qi.BaseKerasTrainableQuantizer)


@pytest.mark.parametrize("wing", [marked(wing) for wing in WINGS])
def test_the_classes_of_a_wing_are_its_own(wing):
    need(wing)
    own = importlib.import_module(f"{TOOLKIT}.trainable_infrastructure.{wing}.activation_quantizers")
    base = importlib.import_module(f"{TOOLKIT}.trainable_infrastructure.{wing}.base_{wing}_quantizer")
    for name in ACTIVATIONS.split():
        assert issubclass(getattr(own, name), getattr(base, f"Base{WINGS[wing]}ActivationTrainableQuantizer"))
    if wing == "pytorch":
        face = importlib.import_module(f"{TOOLKIT}.trainable_infrastructure")
        assert all(getattr(face, name) is getattr(own, name) for name in ACTIVATIONS.split())


@pytest.mark.parametrize("wing", [marked(wing) for wing in WINGS])
def test_tables_of_methods_are_one_pair_of_dictionaries(wing):
    need(wing)
    builder = importlib.import_module(f"{TOOLKIT}.qat.{wing}.quantizer.quantization_builder")
    dispatcher = importlib.import_module(f"{TOOLKIT}.qat.{wing}.quantizer.quantization_dispatcher_builder")
    for name in ("METHOD2WEIGHTQUANTIZER", "METHOD2ACTQUANTIZER"):
        table = getattr(dispatcher, name)
        assert table is getattr(builder, name)
        assert type(table) is dict
        for training_method in ("STE", "LSQ"):
            assert set(table[training_method]) == {
                qi.QuantizationMethod.POWER_OF_TWO,
                qi.QuantizationMethod.SYMMETRIC,
                qi.QuantizationMethod.UNIFORM,
            }


def test_the_enums_are_those_of_the_runtime():
    assert qi.QuantizationTarget is mct_quantizers.QuantizationTarget
    assert qi.QuantizationMethod is mct_quantizers.QuantizationMethod
    assert qi.mark_quantizer is mct_quantizers.mark_quantizer
    from model_compression_toolkit.core.common.quantization.node_quantization_config import (
        NodeActivationQuantizationConfig,
        NodeWeightsQuantizationConfig,
    )

    assert NodeWeightsQuantizationConfig is qi.TrainableQuantizerWeightsConfig is qi.NodeWeightsQuantizationConfig
    assert NodeActivationQuantizationConfig is qi.TrainableQuantizerActivationConfig


@pytest.mark.parametrize("name", QI.split())
def test_the_oldest_face_lists_its_names(name):
    assert name in qi.__all__
    assert name in dir(qi)


@pytest.mark.parametrize("path", [marked(path.removeprefix(f"{TOOLKIT}.")) for path in MOVED])
def test_every_way_of_importing_gives_the_same_module(path):
    need(path)
    package, _, name = dotted(path).rpartition(".")
    first, second = {}, {}
    exec(f"import {dotted(path)}", first)
    exec(f"import {dotted(path)} as module\nfrom {package} import {name}", second)
    walked = first[TOOLKIT]
    for part in path.split("."):
        walked = getattr(walked, part)
    assert walked is second["module"] is second[name] is sys.modules[dotted(path)]
    assert walked.__name__ == walked.__spec__.name == dotted(path)
    everything: dict = {}
    exec(f"from {dotted(path)} import *", everything)
    home = importlib.import_module(_paths.HOME_OF[dotted(path)])
    assert set(everything) - {"__builtins__"} == set(walked.__all__) <= set(dir(walked))
    assert all(everything[name] is getattr(home, name) for name in walked.__all__)


# Nothing is loaded before it is asked for.

LOADED = 'print(*(name for name in ("torch", "keras", "tensorflow", "jax", "onnx") if name in sys.modules))'
NEUTRAL = [path for path in PATHS if path and not frameworks_of(path)]
# To find a path Python imports the packages above it, of which some are a framework's.
FINDABLE = [dotted(path) for path in PATHS if path and dotted(path).rpartition(".")[0] not in _paths.HOME_OF]


def test_neutral_paths_load_no_framework():
    imports = "; ".join(f"import {dotted(path)}" for path in NEUTRAL)
    names = "; ".join(
        f"from {dotted(path)} import {name}"
        for path in NEUTRAL
        for name in PATHS[path].split()
        if not frameworks_of(f"{path} {name}")
    )
    assert run(f"import sys; {imports}; {names}; {LOADED}") == ""


def test_the_faces_can_be_listed_and_the_paths_be_found_without_a_framework():
    code = f"""
        import importlib.util, sys
        import {TOOLKIT}.quantizers_infrastructure as qi, {TOOLKIT}.trainable_infrastructure as ti, {TOOLKIT}.qat as qat
        dir(qi), dir(ti), dir(qat)
        for path in {FINDABLE}:
            assert importlib.util.find_spec(path) is not None, path
        {LOADED}
    """
    assert run(code) == ""


def test_pytorch_paths_load_torch_alone():
    need("pytorch")
    paths = [dotted(path) for path in PATHS if "pytorch" in path]
    assert run(f"import sys, {', '.join(paths)}; {LOADED}") == "torch"


@pytest.mark.keras
def test_keras_paths_load_what_keras_loads():
    need("keras")
    paths = [dotted(path) for path in PATHS if "keras" in path.lower()]
    by_keras, by_paths = run(f"import sys, keras; {LOADED}; import {', '.join(paths)}; {LOADED}").splitlines()
    assert "keras" in by_keras
    assert by_paths == by_keras


@pytest.mark.parametrize(
    ("statement", "framework"),
    [
        (f"from {TOOLKIT}.trainable_infrastructure import BasePytorchTrainableQuantizer", "torch"),
        (f"from {TOOLKIT}.trainable_infrastructure import LSQUniformActivationTrainableQuantizer", "torch"),
        (f"import {TOOLKIT}; import {TOOLKIT}.qat.pytorch.quantizer.ste_rounding.symmetric_ste", "torch"),
        (f"from {TOOLKIT}.quantizers_infrastructure import BaseKerasTrainableQuantizer", "keras"),
        (f"import {TOOLKIT}; import {TOOLKIT}.qat.keras.quantizer.quant_utils", "keras"),
    ],
)
def test_a_missing_framework_is_one_sentence(statement, framework):
    code = f"""
        import sys
        sys.modules[{framework!r}] = None
        try:
            {statement}
        except ImportError as error:
            print(error)
    """
    text = run(code)
    assert f"needs {framework}, which is not installed" in text
    assert f"quantizers-infrastructure[{framework}]" in text


def test_everything_neutral_works_without_any_framework():
    code = f"""
        import sys
        sys.modules.update(dict.fromkeys(("torch", "keras", "tensorflow", "jax")))
        from {TOOLKIT} import quantizers_infrastructure as qi
        from {TOOLKIT}.trainable_infrastructure import FOUND_TF, FOUND_TORCH, TrainingMethod
        config = qi.NodeWeightsQuantizationConfig(qi.QuantizationMethod.SYMMETRIC, 4, {{"threshold": 1.0}})
        print(FOUND_TF, FOUND_TORCH, TrainingMethod.LSQ, config.weights_n_bits)
    """
    assert run(code) == "False False LSQ 4"


def test_a_name_or_path_that_does_not_exist_is_the_usual_error():
    for module in (qi, importlib.import_module(f"{TOOLKIT}.constants")):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module(f"{TOOLKIT}.qat.keras.quantizer.nothing")


# The dispatcher of the oldest form.


def test_dispatcher_is_the_dictionary_that_a_wrapper_takes():
    assert qi.KerasNodeQuantizationDispatcher is qi.PytorchNodeQuantizationDispatcher is NodeQuantizationDispatcher
    quantizer = object()
    for dispatcher in (
        NodeQuantizationDispatcher({"kernel": quantizer}),
        NodeQuantizationDispatcher(weight_quantizers={"kernel": quantizer}, activation_quantizers=[]),
        NodeQuantizationDispatcher({"kernel": quantizer}, None),
    ):
        assert isinstance(dispatcher, dict)
        assert dict(dispatcher) == dispatcher.weight_quantizers == {"kernel": quantizer}
    assert NodeQuantizationDispatcher() == {}


def test_dispatcher_takes_weights_as_they_come():
    dispatcher = NodeQuantizationDispatcher()
    dispatcher.weight_quantizers["kernel"] = 1
    assert dispatcher == {"kernel": 1}


def test_dispatcher_does_not_change_what_it_was_given():
    given = {"kernel": 1}
    dispatcher = NodeQuantizationDispatcher(given)
    dispatcher["bias"] = 2
    assert given == {"kernel": 1}


def test_dispatcher_refuses_activations():
    with pytest.raises(ValueError, match=r"`activation_quantizers` must be empty.*Received: \['a'\]"):
        NodeQuantizationDispatcher({}, ["a"])


def test_wrappers_take_a_dispatcher():
    need("pytorch")
    import torch

    from mct_quantizers.pytorch.quantizers import WeightsPOTInferableQuantizer

    quantizer = WeightsPOTInferableQuantizer(4, [2.0], False)
    wrapper = qi.PytorchQuantizationWrapper(
        torch.nn.Linear(3, 2), qi.PytorchNodeQuantizationDispatcher({"weight": quantizer})
    )
    assert wrapper.weights_quantizers == {"weight": quantizer}
    assert torch.equal(wrapper.get_quantized_weights()["weight"], quantizer(wrapper.weight.detach()))


@pytest.mark.keras
def test_keras_wrappers_take_a_dispatcher():
    need("keras")
    import keras

    quantizer = qi.keras_inferable_quantizers.WeightsPOTInferableQuantizer(4, [2.0], False)
    wrapper = qi.KerasQuantizationWrapper(
        keras.layers.Dense(2), qi.KerasNodeQuantizationDispatcher({"kernel": quantizer})
    )
    assert dict(wrapper.weights_quantizers) == {"kernel": quantizer}
    assert wrapper(keras.ops.ones((1, 3))).shape == (1, 2)
