# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the interface's documents 000 to 003 that need no framework, or are one body for all; ids in the names."""

import enum
import hashlib
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from document_examples import (
    DOCUMENTS,
    OPEN,
    examples_forgotten,
    filled,
    new_module,
    printed,
    run_example,
    run_in_new_process,
)
from engines import WINGS

import mct_quantizers
import model_compression_toolkit as mct
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import from_range, from_threshold
from model_compression_toolkit import qat, trainable_infrastructure
from model_compression_toolkit import quantizers_infrastructure as qi
from model_compression_toolkit.core.common.quantization_plan import TensorPlan, TensorSite
from model_compression_toolkit.trainable_infrastructure import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.common import training_method
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import BaseTrainableQuantizer
from model_compression_toolkit.trainable_infrastructure.common.get_quantizers import get_trainable_quantizer_class
from model_compression_toolkit.trainable_infrastructure.methods.method import registered_names

POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
ROOT = Path(__file__).parents[2]
wings = pytest.mark.parametrize("wing", WINGS)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Training methods and quantizer classes of a test are of no concern to the others."""
    monkeypatch.setattr(training_method, "_OWN_NAMES", set())
    with examples_forgotten(BaseTrainableQuantizer):
        yield


def base_of(wing: str):
    return getattr(trainable_infrastructure, f"Base{wing.title()}TrainableQuantizer")


def builder_of(wing: str):
    return importlib.import_module(f"model_compression_toolkit.qat.{wing}.quantizer.quantization_builder")


def plan(target: QuantizationTarget, grid: QuantizationMethod) -> TensorPlan:
    """The calibrated plan of a tensor with four channels in the last axis."""
    is_weight = target is WEIGHTS
    axis, size = (1, 4) if is_weight else (None, 1)
    if grid is UNIFORM:
        params = from_range(np.full(size, -0.5), np.linspace(1.0, 2.0, size), 4, axis=axis)
    else:
        params = from_threshold(np.full(size, 0.5), 4, True, axis=axis, power_of_two=grid is POT)
    site = TensorSite("dense", "kernel" if is_weight else "output", target, "Dense", (3, 4), 1 if is_weight else None)
    granularity = mct.Granularity.PER_CHANNEL if is_weight else mct.Granularity.PER_TENSOR
    return TensorPlan(site, mct.TensorConfig(num_bits=4, method=grid, granularity=granularity), params)


def define(base: type, mark=lambda cls: cls, name: str = "Mine", module: str | None = None) -> type:
    """A quantizer class in the form of document 000, marked or not."""

    class Quantizer(base):
        def __init__(self, quantization_config: qi.TrainableQuantizerWeightsConfig):
            super().__init__(quantization_config)

        def __call__(self, inputs):
            return inputs

        def convert2inferable(self):
            raise AssertionError("not asked for")

    Quantizer.__name__ = Quantizer.__qualname__ = name
    Quantizer.__module__ = module or new_module()
    return mark(Quantizer)


def weights_config(grid=SYMMETRIC):
    ends = {"range_min": -1.0, "range_max": 1.0} if grid is UNIFORM else {"threshold": 1.0}
    return qi.TrainableQuantizerWeightsConfig(grid, 4, ends)


# The examples themselves.


@pytest.mark.parametrize(
    ("file", "gaps", "digest"),
    [
        ("activation_dispatch.txt", 1, "0201ecfbcced"),
        ("keras_trainable_activations.py", 2, "4d60d1e22c15"),
        ("keras_trainable_weights.py", 2, "dc5233ab4244"),
        ("pytorch_trainable_activations.py", 2, "12df1985108d"),
        ("pytorch_trainable_weights.py", 2, "ad81e422c29a"),
        ("rounding_activations.py", 0, "d02d0e6f169c"),
        ("rounding_weights.py", 0, "9639923244c7"),
        ("training_method.txt", 0, "5a65af8267bd"),
        ("weight_dispatch.txt", 1, "d2afeda4c0b8"),
    ],
)
def test_the_examples_stand_as_printed_and_only_their_gaps_are_filled(file, gaps, digest):
    # An editor that tidies up would change what the document prints.
    assert hashlib.sha256((DOCUMENTS / file).read_bytes()).hexdigest().startswith(digest)
    text = printed(file)
    fills = [f"fill_{number}" for number in range(gaps)]
    for number, fill in enumerate(fills):
        text = text.replace(OPEN, fill, 1)
        assert text.count(OPEN) == gaps - number - 1
    assert filled(printed(file), *fills) == text
    for wrong in ([*fills, "more"], [*fills[1:], "two\nlines"]):
        with pytest.raises(ValueError, match="`fills` must be"):
            filled(printed(file), *wrong)


# Document 000.


@wings
def test_row_000_4_the_decorator_takes_quantizer_type(wing):
    class Task(enum.Enum):
        ROUNDING = 1

    mark = qi.mark_quantizer(
        quantization_target=WEIGHTS, quantization_method=[SYMMETRIC, POT], quantizer_type=Task.ROUNDING
    )
    cls = define(base_of(wing), mark)
    assert cls.quantizer_type is cls.identifier is Task.ROUNDING
    assert (cls.quantization_target, cls.quantization_method) == (WEIGHTS, [SYMMETRIC, POT])
    assert cls(weights_config()).identifier is Task.ROUNDING
    older = importlib.import_module("model_compression_toolkit.quantizers_infrastructure.common")
    assert older.mark_quantizer is qi.mark_quantizer is mct_quantizers.mark_quantizer
    with pytest.raises(ValueError, match="`identifier` and `quantizer_type` are two words for one value"):
        qi.mark_quantizer(quantizer_type="a", identifier="b")


@wings
def test_row_000_5_a_class_without_the_decorator_is_one_clear_error(wing):
    cls = define(base_of(wing), name="Forgotten")
    with pytest.raises(TypeError, match=r"^Forgotten must be decorated with @mark_quantizer\(quantization_target="):
        cls(weights_config())
    # The decorator is all that lacked.
    marked = qi.mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC])(cls)
    assert marked(weights_config()).weights_quantization()


@pytest.mark.parametrize(
    "path",
    [
        "mct_quantizers",
        "model_compression_toolkit.quantizers_infrastructure",
        "model_compression_toolkit.quantizers_infrastructure.common.base_inferable_quantizer",
        "model_compression_toolkit.core.common.target_platform",
        "model_compression_toolkit.core.common.target_platform.op_quantization_config",
    ],
)
def test_row_000_6_target_and_method_are_one_object_on_every_path(path):
    module = importlib.import_module(path)
    names: dict = {}
    exec(f"from {path} import QuantizationMethod", names)
    assert names["QuantizationMethod"] is module.QuantizationMethod is mct_quantizers.QuantizationMethod
    assert module.QuantizationTarget is mct_quantizers.QuantizationTarget
    assert {item.name for item in module.QuantizationTarget} == {"Weights", "Activation"}
    assert {"POWER_OF_TWO", "SYMMETRIC", "UNIFORM"} < {item.name for item in module.QuantizationMethod}


@wings
@pytest.mark.parametrize("kind", ["enumeration", "string"])
def test_row_000_7_the_type_of_a_quantizer_is_any_enumeration_or_a_string(wing, kind):
    class Task(enum.Enum):
        PRUNING = "pruning"
        TRAINING = "training"

    mine, other = (Task.TRAINING, Task.PRUNING) if kind == "enumeration" else ("Training", "Pruning")
    classes = {
        task: define(base_of(wing), qi.mark_quantizer(WEIGHTS, [SYMMETRIC], quantizer_type=task), name=f"Of{number}")
        for number, task in enumerate((mine, other))
    }
    for task, cls in classes.items():
        assert get_trainable_quantizer_class(WEIGHTS, task, SYMMETRIC, base_of(wing)) is cls
        if kind == "string":
            TrainingMethod.register(task)
        quantizers, none = builder_of(wing).quantization_builder(
            plan(WEIGHTS, SYMMETRIC), mct.QATConfig(weight_training_method=task)
        )
        assert type(quantizers["kernel"]) is cls
        assert none == []


# Documents 000.9 and 003.12: links and paths.


def slugs(document: Path) -> set[str]:
    """The anchors of a document's headings, as they are made where it is shown."""
    found: list[str] = []
    is_code = False
    for line in document.read_text(encoding="utf-8").splitlines():
        is_code ^= line.startswith("```")
        heading = re.match(r"#+ +(.*?) *#*$", line)
        if heading and not is_code:
            slug = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            again = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
            found.append(f"{slug}-{again}" if again else slug)
    return set(found)


def broken_links(document: Path) -> list[str]:
    """The relative links of a document that lead nowhere."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(\s*<?([^)\s>]+)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (document.parent / path) if path else document
        if not target.exists() or (anchor and anchor not in slugs(target)):
            broken.append(link)
    return broken


def test_rows_000_9_and_003_12_every_relative_link_of_our_documents_resolves():
    documents = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    documents += sorted((ROOT / "docs").glob("*.md"))
    assert len(documents) > 3
    assert {document.name: broken_links(document) for document in documents} == {
        document.name: [] for document in documents
    }


def test_the_check_of_links_finds_broken_ones(tmp_path):
    (tmp_path / "other.md").write_text("# One thing\n## One: `thing`!\n```\n# code\n```\n## Last\n", encoding="utf-8")
    document = tmp_path / "document.md"
    document.write_text(
        "# Here\n[a](other.md) [b](other.md#one-thing) [c](other.md#one-thing-1) [d](#here) [e](https://x.org/none) "
        "[f](none.md) [g](other.md#code) [h](#there) [i](other.md#last-1)\n```\n[j](nowhere.md)\n```\n",
        encoding="utf-8",
    )
    assert broken_links(document) == ["none.md", "other.md#code", "#there", "other.md#last-1"]


KERAS_PATHS = {
    "quantizers_infrastructure.keras.base_Keras_quantizer": "BaseKerasTrainableQuantizer",
    "quantizers_infrastructure.keras.base_keras_quantizer": "BaseKerasTrainableQuantizer",
    "quantizers_infrastructure.keras.inferable_quantizers": "WeightsSymmetricInferableQuantizer",
    "qat.keras.quantizer.base_keras_qat_quantizer": "BaseKerasQATTrainableQuantizer",
    "qat.keras.quantizer.ste_rounding": "STEWeightQATQuantizer",
    "qat.keras.quantizer.quantization_dispatcher_builder": "METHOD2WEIGHTQUANTIZER",
}
NEUTRAL_PATHS = {
    "quantizers_infrastructure.common.base_inferable_quantizer": "mark_quantizer",
    "quantizers_infrastructure.common.base_trainable_quantizer": "BaseTrainableQuantizer",
    "core.common.target_platform.op_quantization_config": "QuantizationMethod",
    "core.common.quantization.node_quantization_config": "NodeWeightsQuantizationConfig",
    "qat.common.qat_config": "TrainingMethod",
    "trainable_infrastructure.common.training_method": "TrainingMethod",
}
PYTORCH_PATHS = {
    "trainable_infrastructure.pytorch.activation_quantizers": "STESymmetricActivationTrainableQuantizer",
    "trainable_infrastructure.pytorch": "",
    "qat.pytorch.quantizer.base_pytorch_qat_weight_quantizer": "BasePytorchQATWeightTrainableQuantizer",
}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *NEUTRAL_PATHS.items(),
        *(pytest.param(*item, marks=WINGS[0].marks) for item in PYTORCH_PATHS.items()),
        *(pytest.param(*item, marks=WINGS[1].marks) for item in KERAS_PATHS.items()),
    ],
)
def test_rows_000_9_and_003_12_every_path_that_the_documents_link_to_has_what_they_name(path, name):
    module = importlib.import_module(f"model_compression_toolkit.{path}")
    assert not name or hasattr(module, name)


# Document 002.


def test_row_002_4_without_frameworks_the_package_imports_and_the_base_says_what_lacks():
    code = """
sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_model_optimization", "keras", "torch", "jax")))
import mct_quantizers, model_compression_toolkit
from model_compression_toolkit import qat, trainable_infrastructure
from model_compression_toolkit import quantizers_infrastructure as qi
assert not (trainable_infrastructure.FOUND_TF or trainable_infrastructure.FOUND_TORCH)
for name in ("BaseKerasTrainableQuantizer", "BasePytorchTrainableQuantizer"):
    for module in (qi, trainable_infrastructure):
        try:
            getattr(module, name)(None)
        except ImportError as error:
            print(error)
try:
    from model_compression_toolkit.quantizers_infrastructure import BaseKerasTrainableQuantizer
except ImportError as error:
    print(error)
"""
    keras, keras_again, torch, torch_again, statement = run_in_new_process(code).splitlines()
    for text in (keras, keras_again, statement):
        assert "BaseKerasTrainableQuantizer` needs keras, which is not installed" in text
        assert "pip install 'quantizers-infrastructure[keras]'" in text
    for text in (torch, torch_again):
        assert "BasePytorchTrainableQuantizer` needs torch, which is not installed" in text
        assert "pip install 'quantizers-infrastructure[torch]'" in text


def test_row_002_5_a_training_method_is_added_without_editing_the_library():
    assert "MyTrainingMethod" not in TrainingMethod
    with pytest.raises(AttributeError, match=r"TrainingMethod\.register\(name\)"):
        TrainingMethod.MyTrainingMethod  # noqa: B018
    made = TrainingMethod.register("MyTrainingMethod")
    assert TrainingMethod.MyTrainingMethod == made == "MyTrainingMethod"
    assert "MyTrainingMethod" in TrainingMethod
    assert mct.QATConfig(weight_training_method=TrainingMethod.MyTrainingMethod).weight_training_method == made
    # The others are there as before.
    assert {"STE", "LSQ", "DQA", "MyTrainingMethod"} <= {*TrainingMethod}
    assert "MyTrainingMethod" not in registered_names()


def test_row_002_5_the_printed_enumeration_is_a_set_of_training_methods_of_its_own():
    own = run_example(printed("training_method.txt"), {"Enum": enum.Enum})["TrainingMethod"]
    config = mct.QATConfig(own.MyTrainingMethod, own.STE)
    assert config.weight_training_method is own.MyTrainingMethod
    assert config.activation_training_method is own.STE
    # It is not the library's of that name.
    assert config.activation_training_method != TrainingMethod.STE


@wings
def test_row_002_5_a_method_that_is_defined_after_the_first_use_is_found(wing):
    # In a process of its own: the method would stay registered in this one.
    code = """
from test_document_rows_common import SYMMETRIC, WEIGHTS, builder_of, mct, plan
from model_compression_toolkit.trainable_infrastructure.methods.ste import STE
builder = builder_of(sys.argv[1])
builder.quantization_builder(plan(WEIGHTS, SYMMETRIC), mct.QATConfig())
class Late(STE, name="LATE", supports=STE.supports):
    pass
weights, _ = builder.quantization_builder(plan(WEIGHTS, SYMMETRIC), mct.QATConfig(weight_training_method="LATE"))
print(type(weights["kernel"]).__name__, type(weights["kernel"].method).__name__)
"""
    assert run_in_new_process(code, wing).splitlines()[-1] == "LATEWeightQATQuantizer Late"


def test_row_002_6_the_training_methods_are_importable_where_the_document_has_them():
    from model_compression_toolkit.qat.common.qat_config import TrainingMethod as documented

    assert documented is TrainingMethod is qat.TrainingMethod is mct.TrainingMethod is qi.TrainingMethod


# Document 003.

SYMMETRIC_NAMES = {WEIGHTS: "{}WeightQATQuantizer", ACTIVATION: "{}SymmetricActivationTrainableQuantizer"}
UNIFORM_NAMES = {WEIGHTS: "{}UniformWeightQATQuantizer", ACTIVATION: "{}UniformActivationTrainableQuantizer"}


@wings
@pytest.mark.parametrize("grid", [POT, SYMMETRIC, UNIFORM])
@pytest.mark.parametrize("method", ["STE", "LSQ"])
@pytest.mark.parametrize("target", [WEIGHTS, ACTIVATION])
def test_row_003_5_the_class_is_found_from_configuration_target_and_grid(wing, target, method, grid):
    name = (UNIFORM_NAMES if grid is UNIFORM else SYMMETRIC_NAMES)[target].format(method)
    other = "LSQ" if method == "STE" else "STE"
    # The method of the other target must not count.
    methods = (method, other) if target is WEIGHTS else (other, method)
    config = mct.QATConfig(weight_training_method=methods[0], activation_training_method=methods[1])
    weights, activations = builder_of(wing).quantization_builder(plan(target, grid), config)
    (quantizer,) = weights.values() if target is WEIGHTS else activations
    assert len(weights) + len(activations) == 1
    assert type(quantizer).__name__ == name
    root = f"Base{wing.title()}" + ("QATWeight" if target is WEIGHTS else "Activation") + "TrainableQuantizer"
    found = get_trainable_quantizer_class(target, TrainingMethod(method), grid, getattr(trainable_infrastructure, root))
    assert type(quantizer) is found
    package = "ste_rounding" if method == "STE" else "lsq"
    path = f"qat.{wing}.quantizer.{package}"
    if target is ACTIVATION:
        path = f"trainable_infrastructure.{wing}.activation_quantizers.{method.lower()}"
    module = importlib.import_module(
        f"model_compression_toolkit.{path}.{'uniform' if grid is UNIFORM else 'symmetric'}_{method.lower()}"
    )
    assert getattr(module, name) is found
    if target is ACTIVATION:
        holder = builder_of(wing).get_activation_quantizer_holder(plan(target, grid), config)
        assert type(holder.activation_holder_quantizer) is found


@wings
def test_row_003_5_no_class_and_two_classes_are_errors_that_list_what_exists(wing):
    TrainingMethod.register("MyTraining")
    config = mct.QATConfig(weight_training_method="MyTraining")
    builder = builder_of(wing)
    with pytest.raises(ValueError, match=r"Expected one trainable quantizer.*Received: \[\] of .*'STEWeight"):
        builder.quantization_builder(plan(WEIGHTS, SYMMETRIC), config)
    mark = qi.mark_quantizer(WEIGHTS, [SYMMETRIC], identifier="MyTraining")
    first = define(base_of(wing), mark, name="First")
    assert type(builder.quantization_builder(plan(WEIGHTS, SYMMETRIC), config)[0]["kernel"]) is first
    second = define(base_of(wing), mark, name="Second")
    with pytest.raises(ValueError, match=r"Received: \['First', 'Second'\]"):
        builder.quantization_builder(plan(WEIGHTS, SYMMETRIC), config)
    assert second is not first
    with pytest.raises(ValueError, match="and UNIFORM"):
        builder.quantization_builder(plan(WEIGHTS, UNIFORM), config)


@wings
def test_row_003_7_of_a_class_defined_twice_the_last_counts_with_a_warning(wing):
    TrainingMethod.register("MyTraining")
    mark = qi.mark_quantizer(WEIGHTS, [SYMMETRIC], identifier=TrainingMethod.MyTraining)
    config = mct.QATConfig(weight_training_method=TrainingMethod.MyTraining)
    module = new_module()
    first, second = (define(base_of(wing), mark, module=module) for _ in range(2))
    assert first is not second
    with pytest.warns(UserWarning, match="Mine is defined more than once; the last definition counts"):
        weights, _ = builder_of(wing).quantization_builder(plan(WEIGHTS, SYMMETRIC), config)
    assert type(weights["kernel"]) is second
