# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every public name and dotted path of the runtime's interface: it resolves, lazily, to one and the same object."""

import copy
import importlib
import importlib.util
import inspect
import pickle
import pickletools
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import mct_quantizers
from mct_quantizers import _paths
from mct_quantizers.common import constants, registry

CLASSES = {
    "activation": {"lut_pot": "LutPOT", "pot": "POT", "symmetric": "Symmetric", "uniform": "Uniform"},
    "weights": {
        "lut_pot": "LUTPOT",
        "lut_symmetric": "LUTSymmetric",
        "pot": "POT",
        "symmetric": "Symmetric",
        "uniform": "Uniform",
    },
}
QUANTIZER_NAMES = sorted(
    f"{target.title()}{word}InferableQuantizer" for target, kinds in CLASSES.items() for word in kinds.values()
)
BASES = {"keras": "BaseKerasInferableQuantizer", "pytorch": "BasePyTorchInferableQuantizer"}

FACE = (
    "__version__ QuantizationTarget BaseInferableQuantizer mark_quantizer QuantizationMethod "
    "KerasActivationQuantizationHolder PytorchActivationQuantizationHolder PytorchFLNActivationQuantizationHolder "
    "PytorchPreservingActivationQuantizationHolder keras_load_quantized_model KerasQuantizationWrapper "
    "pytorch_load_quantized_model PytorchQuantizationWrapper constants keras_quantizers pytorch_quantizers "
    "get_ort_session_options common keras pytorch logger"
).split()
CONSTANTS = {
    **{"TENSORFLOW": "tensorflow", "TORCH": "torch", "ONNX": "onnx", "ONNXRUNTIME": "onnxruntime"},
    **{"ONNXRUNTIME_EXTENSIONS": "onnxruntime_extensions", "IS_WEIGHTS": "is_weights"},
    **{"IS_ACTIVATIONS": "is_activations", "WEIGHTS_QUANTIZERS": "weights_quantizer"},
    **{"WEIGHTS_VALUES": "weights_value", "OP_CALL_ARGS": "op_call_args", "OP_CALL_KWARGS": "op_call_kwargs"},
    **{"IS_INPUT_AS_LIST": "is_inputs_as_list", "WEIGHTS_QUANTIZATION_METHOD": "weights_quantization_method"},
    **{"WEIGHTS_N_BITS": "weights_n_bits", "WEIGHTS_QUANTIZATION_PARAMS": "weights_quantization_params"},
    **{"ENABLE_WEIGHTS_QUANTIZATION": "enable_weights_quantization"},
    **{"WEIGHTS_CHANNELS_AXIS": "weights_channels_axis"},
    **{"WEIGHTS_PER_CHANNEL_THRESHOLD": "weights_per_channel_threshold", "MIN_THRESHOLD": "min_threshold"},
    **{"ACTIVATION_QUANTIZATION_METHOD": "activation_quantization_method"},
    **{"ACTIVATION_N_BITS": "activation_n_bits"},
    **{"ACTIVATION_QUANTIZATION_PARAMS": "activation_quantization_params"},
    **{"ENABLE_ACTIVATION_QUANTIZATION": "enable_activation_quantization"},
    **{"QUANTIZATION_TARGET": "quantization_target", "QUANTIZATION_METHOD": "quantization_method"},
    **{"QUANTIZER_ID": "identifier", "ACTIVATION_QUANTIZERS": "activation_quantizers"},
    **{"ACTIVATION_HOLDER_QUANTIZER": "activation_holder_quantizer", "NUM_BITS": "num_bits", "SIGNED": "signed"},
    **{"THRESHOLD": "threshold", "PER_CHANNEL": "per_channel", "MIN_RANGE": "min_range", "MAX_RANGE": "max_range"},
    **{"CHANNEL_AXIS": "channel_axis", "INPUT_RANK": "input_rank", "LUT_VALUES": "lut_values", "LAYER": "layer"},
    **{"STEPS": "optimizer_step", "TRAINING": "training", "EPS": 1e-8, "LUT_VALUES_BITWIDTH": 8},
    **{"POSITIONAL_WEIGHT": "positional_weight", "QUANTIZED_POSITIONAL_WEIGHT": "quantized_positional_weight"},
    **{"ONNX_CUSTOM_OP_DOMAIN": "mct_quantizers", "FRAMEWORK_VERSION": "framework_version"},
    **{"PYTHON_VERSION": "python_version", "MCTQ_VERSION": "mctq_version", "ONNX_VERSION": "onnx_version"},
}
FOUND = {
    "FOUND_TF": "tensorflow",
    "FOUND_TORCH": "torch",
    "FOUND_ONNX": "onnx",
    "FOUND_ONNXRUNTIME": "onnxruntime",
    "FOUND_ONNXRUNTIME_EXTENSIONS": "onnxruntime_extensions",
}


def quantizer_paths(wing: str) -> dict[str, str]:
    """The original's module of each quantizer class, and the class."""
    return {
        f"{wing}.quantizers.{target}_inferable_quantizers.{target}_{kind}_inferable_quantizer": (
            f"{target.title()}{word}InferableQuantizer"
        )
        for target, kinds in CLASSES.items()
        for kind, word in kinds.items()
    }


def wing_paths(wing: str, prefix: str) -> dict[str, str]:
    """What the interface promises of both wings."""
    return {
        f"{wing}.activation_quantization_holder": f"{prefix}ActivationQuantizationHolder",
        f"{wing}.load_model": f"{wing}_load_quantized_model",
        f"{wing}.quantize_wrapper": f"{prefix}QuantizationWrapper",
        f"{wing}.quantizers": " ".join([BASES[wing], *QUANTIZER_NAMES]),
        f"{wing}.quantizers.base_{wing}_inferable_quantizer": BASES[wing],
        **{
            f"{wing}.quantizers.{target}_inferable_quantizers": " ".join(
                f"{target.title()}{word}InferableQuantizer" for word in kinds.values()
            )
            for target, kinds in CLASSES.items()
        },
        **quantizer_paths(wing),
    }


PATHS = {
    "": " ".join(FACE),
    "logger": "LOGGER_NAME Logger set_log_folder",
    "common.base_inferable_quantizer": "QuantizationTarget QuantizerID BaseInferableQuantizer mark_quantizer",
    "common.constants": " ".join([*CONSTANTS, *FOUND]),
    "common.get_all_subclasses": "get_all_subclasses",
    "common.get_quantizers": "get_inferable_quantizer_class",
    "common.metadata": "verify_and_init_metadata",
    "common.quant_info": "QuantizationMethod",
    "common.quant_utils": "adjust_range_to_include_zero int_quantization_with_threshold lut_quantizer_np",
    **wing_paths("keras", "Keras"),
    "keras.metadata": "add_metadata get_metadata MetadataLayer",
    "keras.quantizer_utils": "lut_quantizer int_quantization_with_threshold",
    "keras.validation_functions": "validate_uniform_min_max_ranges validate_adjusted_min_max_ranges",
    **wing_paths("pytorch", "Pytorch"),
    "pytorch.fln_activation_quantization_holder": "PytorchFLNActivationQuantizationHolder",
    "pytorch.preserving_activation_quantization_holder": "PytorchPreservingActivationQuantizationHolder",
    "pytorch.metadata": "add_metadata get_metadata add_onnx_metadata get_onnx_metadata",
    "pytorch.quantizer_utils": (
        "get_working_device lut_quantizer to_torch_tensor fix_range_to_include_zero int_quantization_with_threshold"
    ),
}
MOVED = sorted(path for path in _paths.HOME_OF if path.startswith("mct_quantizers."))


def dotted(path: str) -> str:
    return f"mct_quantizers.{path}".rstrip(".")


def framework_of(text: str) -> list[str]:
    """The frameworks that a path or name needs."""
    return [name for word, name in (("ytorch", "torch"), ("eras", "keras"), ("ort_", "onnxruntime")) if word in text]


def marked(value: str, *rest: object):
    """A test parameter, left to the runs of the Keras backends where it needs Keras."""
    text = " ".join(map(str, (value, *rest)))
    return pytest.param(value, *rest, marks=[pytest.mark.keras] if "keras" in framework_of(text) else [], id=text)


def need(text: str) -> None:
    """Skip what needs a framework that is not installed."""
    for framework in framework_of(text):
        if importlib.util.find_spec(framework) is None:
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
    if hasattr(found, "__name__") and not isinstance(found, ModuleType):
        assert found.__name__ == name
        # No stand-in: the module that the object names as its own holds it.
        assert getattr(importlib.import_module(found.__module__), name) is found


def test_the_table_holds_every_promised_path_that_is_no_file():
    root = Path(mct_quantizers.__file__).parent
    for path in PATHS:
        file = root / path.replace(".", "/")
        is_file = file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()
        assert is_file != (dotted(path) in _paths.HOME_OF), path
    assert not set(MOVED) & set(_paths.HOME_OF.values())


@pytest.mark.parametrize("name", FACE)
def test_the_face_lists_its_names(name):
    assert name in mct_quantizers.__all__
    assert name in dir(mct_quantizers)


@pytest.mark.parametrize(("name", "value"), CONSTANTS.items())
def test_constants_have_the_values_of_the_interface(name, value):
    assert getattr(constants, name) == value
    assert type(getattr(constants, name)) is type(value)


@pytest.mark.parametrize(("name", "package"), FOUND.items())
def test_found_says_whether_a_package_is_installed(name, package):
    assert getattr(constants, name) is (importlib.util.find_spec(package) is not None)


@pytest.mark.parametrize(
    "hide",
    [
        "sys.modules.update(dict.fromkeys(HIDDEN))",
        "sys.meta_path.insert(0, type('Finder', (), {'find_spec': staticmethod(refuse)}))",
    ],
)
def test_found_is_false_for_what_cannot_be_imported(hide):
    code = f"""
        import sys
        HIDDEN = {list(FOUND.values())}
        def refuse(name, path=None, target=None):
            if name in HIDDEN:
                raise ModuleNotFoundError(name=name)
        {hide}
        from mct_quantizers.common import constants
        print([getattr(constants, name) for name in {list(FOUND)}])
    """
    assert run(code) == str([False] * len(FOUND))


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        marked("keras.load_model.keras_load_quantized_model", "filepath custom_objects=None compile=True options=None"),
        marked("pytorch.load_model.pytorch_load_quantized_model", "filepath **kwargs"),
        marked("common.get_quantizers.get_inferable_quantizer_class", "quant_target quant_method quantizer_base_class"),
        marked("common.quant_utils.adjust_range_to_include_zero", "range_min range_max n_bits"),
        marked("common.quant_utils.int_quantization_with_threshold", "data n_bits signed threshold eps"),
        marked(
            "common.quant_utils.lut_quantizer_np",
            "tensor_data lut_values signed threshold lut_values_bitwidth eps per_channel channel_axis=None "
            "input_rank=None",
        ),
        marked("pytorch.quantizer_utils.to_torch_tensor", "x"),
        marked("pytorch.quantizer_utils.fix_range_to_include_zero", "range_min range_max n_bits"),
        marked(
            "pytorch.quantizer_utils.lut_quantizer",
            "tensor_data lut_values signed threshold lut_values_bitwidth eps per_channel=None channel_axis=None "
            "input_rank=None",
        ),
        marked("pytorch.quantizer_utils.int_quantization_with_threshold", "data n_bits signed threshold eps"),
        marked(
            "keras.quantizer_utils.lut_quantizer", "tensor_data lut_values signed threshold lut_values_bitwidth eps"
        ),
        marked("keras.quantizer_utils.int_quantization_with_threshold", "data n_bits signed threshold eps"),
        marked("keras.validation_functions.validate_uniform_min_max_ranges", "min_range max_range"),
        marked("keras.validation_functions.validate_adjusted_min_max_ranges", "min_range max_range adj_min adj_max"),
        marked("common.metadata.verify_and_init_metadata", "metadata=None"),
        marked("logger.set_log_folder", "folder level=20"),
    ],
)
def test_functions_take_the_arguments_of_the_interface(path, arguments):
    need(path)
    module, _, name = dotted(path).rpartition(".")
    actual = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    words = [str(item.replace(annotation=inspect.Parameter.empty)) for item in actual]
    promised = [word for word in arguments.split() if word != "**kwargs"]
    assert ("**kwargs" in words) == ("**kwargs" in arguments)
    names, promised_names = ([word.partition("=")[0] for word in group] for group in (words, promised))
    assert names[: len(promised)] == promised_names
    for word, promise in zip(words, promised, strict=False):
        assert word == promise or "=" not in promise, (word, promise)
    # More may follow, if it need not be given.
    assert all("=" in word or word.startswith("*") for word in words[len(promised) :])


# They are the same objects, in every way of importing.


@pytest.mark.parametrize("wing", [marked("keras"), marked("pytorch")])
def test_two_paths_give_the_identical_class(wing):
    need(wing)
    face = importlib.import_module(f"mct_quantizers.{wing}.quantizers")
    for path, name in quantizer_paths(wing).items():
        module = importlib.import_module(dotted(path))
        package = importlib.import_module(dotted(path).rpartition(".")[0])
        assert getattr(module, name) is getattr(package, name) is getattr(face, name)
    base = importlib.import_module(f"mct_quantizers.{wing}.quantizers.base_{wing}_inferable_quantizer")
    assert getattr(base, BASES[wing]) is getattr(face, BASES[wing])


@pytest.mark.parametrize("path", [marked(path) for path in MOVED])
def test_every_way_of_importing_gives_the_same_module(path):
    need(path)
    package, _, name = path.rpartition(".")
    first, second = {}, {}
    exec(f"import {path}", first)
    exec(f"import {path} as module\nfrom {package} import {name}", second)
    walked = first["mct_quantizers"]
    for part in path.split(".")[1:]:
        walked = vars(walked)[part]
    assert walked is second["module"] is second[name] is sys.modules[path] is importlib.import_module(path)
    assert walked.__name__ == walked.__spec__.name == path
    assert walked.__package__ == (path if hasattr(walked, "__path__") else package)
    everything: dict = {}
    exec(f"from {path} import *", everything)
    home = importlib.import_module(_paths.HOME_OF[path])
    assert set(everything) - {"__builtins__"} == set(walked.__all__) <= set(dir(walked))
    assert all(everything[name] is getattr(home, name) for name in walked.__all__)
    assert walked.__doc__ == home.__doc__


@pytest.mark.parametrize(
    ("path", "name"), [marked(path, name) for wing in BASES for path, name in quantizer_paths(wing).items()]
)
def test_a_pickle_that_names_an_old_path_finds_the_class(path, name):
    need(path)
    cls = pickle.loads(f"c{dotted(path)}\n{name}\n.".encode())
    assert cls is getattr(importlib.import_module(dotted(path)), name)
    # What is written now names the module that holds the class.
    written = pickle.dumps(cls, protocol=0)
    assert dotted(path) not in str([argument for _, argument, _ in pickletools.genops(written)])
    assert pickle.loads(written) is cls


def test_quantizers_from_old_paths_pickle_and_copy():
    need("pytorch")
    import torch
    from mct_quantizers.pytorch.quantizers.weights_inferable_quantizers import weights_pot_inferable_quantizer as old

    quantizer = old.WeightsPOTInferableQuantizer(num_bits=4, threshold=[2.0], per_channel=False)
    x = torch.linspace(-3, 3, 50)
    for other in (pickle.loads(pickle.dumps(quantizer)), copy.deepcopy(quantizer)):
        assert isinstance(other, old.WeightsPOTInferableQuantizer)
        torch.testing.assert_close(other(x), quantizer(x), rtol=0, atol=0)


def test_a_reload_keeps_the_objects_and_follows_their_home():
    code = """
        import importlib
        import mct_quantizers.common.get_all_subclasses as old
        from mct_quantizers.common import registry
        before = old.get_all_subclasses
        print(importlib.reload(old) is old, old.get_all_subclasses is before)
        importlib.reload(registry)
        print(old.get_all_subclasses is before, old.get_all_subclasses is registry.get_all_subclasses)
    """
    assert run(code).split() == ["True", "True", "False", "True"]


def test_a_name_that_does_not_exist_is_the_usual_error():
    old = importlib.import_module("mct_quantizers.common.get_quantizers")
    with pytest.raises(AttributeError, match=r"'mct_quantizers\.common\.get_quantizers' has no attribute 'nothing'"):
        old.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {old.__name__} import nothing")
    assert not hasattr(old, "__file__")
    assert not hasattr(old, "_in_order_of_definition")


@pytest.mark.parametrize("path", ["mct_quantizers.common.nothing", "mct_quantizers.common.get_quantizers.nothing"])
def test_a_path_that_does_not_exist_is_the_usual_error(path):
    with pytest.raises(ModuleNotFoundError, match="No module named") as caught:
        importlib.import_module(path)
    assert caught.value.name == path
    assert importlib.util.find_spec("nothing_of_that_name") is None


def test_an_object_changed_at_its_home_is_changed_on_every_path(monkeypatch):
    old = importlib.import_module("mct_quantizers.common.get_quantizers")
    monkeypatch.setattr(registry, "get_inferable_quantizer_class", "replaced")
    assert old.get_inferable_quantizer_class == "replaced"


# Nothing is loaded before it is asked for.

LOADED = (
    'print(*(name for name in ("torch", "keras", "tensorflow", "jax", "onnx", "onnxruntime") if name in sys.modules))'
)


@pytest.mark.parametrize(
    "statement",
    [
        "import mct_quantizers",
        "import mct_quantizers; dir(mct_quantizers); mct_quantizers.constants, mct_quantizers.logger",
        "import mct_quantizers; mct_quantizers.pytorch, mct_quantizers.common",
        "import mct_quantizers.common.get_quantizers, mct_quantizers.common.get_all_subclasses",
        "import mct_quantizers.common.quant_utils",
        "from mct_quantizers.common.get_quantizers import get_inferable_quantizer_class",
        f"import importlib.util, mct_quantizers; [importlib.util.find_spec(path) for path in {MOVED[:2]}]",
    ],
)
def test_neutral_paths_load_no_framework(statement):
    assert run(f"import sys; {statement}; {LOADED}") == ""


def test_pytorch_paths_load_torch_alone():
    need("pytorch")
    paths = [path for path in MOVED if ".pytorch." in path]
    assert run(f"import sys, {', '.join(paths)}; {LOADED}") == "torch"


@pytest.mark.keras
def test_keras_paths_load_what_keras_loads():
    need("keras")
    paths = [path for path in MOVED if ".keras." in path]
    by_keras = run(f"import sys, keras; {LOADED}")
    assert "keras" in by_keras
    assert run(f"import sys, {', '.join(paths)}; {LOADED}") == by_keras


def test_a_missing_framework_is_one_sentence():
    code = """
        import sys
        sys.modules["torch"] = None
        try:
            import mct_quantizers.pytorch.fln_activation_quantization_holder
        except ImportError as error:
            print(error)
        print("mct_quantizers.pytorch.fln_activation_quantization_holder" in sys.modules)
    """
    text, is_left_over = run(code).splitlines()
    assert "needs torch, which is not installed" in text
    assert "quantizers-infrastructure[torch]" in text
    assert is_left_over == "False"


def test_the_paths_are_served_once_whatever_is_reloaded():
    code = """
        import importlib, sys
        import mct_quantizers
        from mct_quantizers import _paths
        others = [finder for finder in sys.meta_path if type(finder).__module__ != "mct_quantizers._paths"]
        _paths.install()
        importlib.reload(_paths)
        importlib.reload(mct_quantizers)
        print([type(finder).__module__ for finder in sys.meta_path].count("mct_quantizers._paths"))
        print(sys.meta_path[:-1] == others, isinstance(sys.meta_path[-1], _paths._MovedModules))
        import mct_quantizers.common.get_quantizers
    """
    assert run(code).split() == ["1", "True", "True"]
