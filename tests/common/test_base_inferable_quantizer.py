# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import enum

import pytest

from mct_quantizers import BaseInferableQuantizer, QuantizationMethod, QuantizationTarget, mark_quantizer
from mct_quantizers.common.quant_info import QuantizerID


class Task(enum.Enum):
    OWN = 1


@pytest.mark.parametrize("task", [QuantizerID.INFERABLE, Task.OWN, "my task"])
@pytest.mark.parametrize("word", ["identifier", "quantizer_type"])
def test_marks_stand_on_the_same_class_under_both_words(word, task):
    class Quantizer:
        pass

    methods = [QuantizationMethod.UNIFORM, QuantizationMethod.SYMMETRIC]
    marked = mark_quantizer(
        quantization_target=QuantizationTarget.Weights, quantization_method=methods, **{word: task}
    )(Quantizer)
    assert marked is Quantizer
    assert marked.quantization_target is QuantizationTarget.Weights
    assert marked.quantization_method == methods
    assert marked.identifier is task
    assert marked.quantizer_type is task


def test_positional_marks_come_in_the_order_target_method_identifier():
    @mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.UNIFORM], Task.OWN)
    class Quantizer:
        pass

    assert (Quantizer.quantization_target, Quantizer.identifier) == (QuantizationTarget.Activation, Task.OWN)


def test_two_different_words_for_the_task_are_refused():
    with pytest.raises(ValueError, match="identifier='a', quantizer_type='b'"):
        mark_quantizer(identifier="a", quantizer_type="b")


def test_the_same_task_under_both_words_is_one_task():
    assert mark_quantizer(identifier="a", quantizer_type="a")(type("Quantizer", (), {})).identifier == "a"


def test_base_creates_no_variables_and_carries_no_marks():
    assert BaseInferableQuantizer().initialize_quantization((2, 3), "weight", None) == {}
    for name in ("quantization_target", "quantization_method", "identifier"):
        assert not hasattr(BaseInferableQuantizer, name)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (QuantizationMethod.POWER_OF_TWO, "<QuantizationMethod.POWER_OF_TWO: 0>"),
        (QuantizationMethod.LUT_POT_QUANTIZER, "<QuantizationMethod.LUT_POT_QUANTIZER: 1>"),
        (QuantizationMethod.SYMMETRIC, "<QuantizationMethod.SYMMETRIC: 2>"),
        (QuantizationMethod.UNIFORM, "<QuantizationMethod.UNIFORM: 3>"),
        (QuantizationMethod.LUT_SYM_QUANTIZER, "<QuantizationMethod.LUT_SYM_QUANTIZER: 4>"),
    ],
)
def test_methods_keep_their_names_and_numbers(method, text):
    assert repr(method) == text
    assert len(QuantizationMethod) == 5


def test_targets_and_task_keep_their_values():
    assert {target.name: target.value for target in QuantizationTarget} == {
        "Activation": "Activation",
        "Weights": "Weights",
    }
    assert QuantizerID.INFERABLE.value == "inferable_quantizer_id"
