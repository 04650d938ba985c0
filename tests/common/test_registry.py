# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from mct_quantizers import BaseInferableQuantizer, QuantizationMethod, QuantizationTarget, mark_quantizer
from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.common.registry import get_all_subclasses, get_inferable_quantizer_class

WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation


class Base(BaseInferableQuantizer):
    """A base of this test, so that no other class of the process counts."""


@mark_quantizer(WEIGHTS, [QuantizationMethod.SYMMETRIC], QuantizerID.INFERABLE)
class Symmetric(Base): ...


@mark_quantizer(WEIGHTS, [QuantizationMethod.POWER_OF_TWO], QuantizerID.INFERABLE)
class PowerOfTwo(Symmetric): ...


@mark_quantizer(WEIGHTS, [QuantizationMethod.UNIFORM, QuantizationMethod.SYMMETRIC], "training")
class Trainable(Base): ...


class UnmarkedChild(Symmetric):
    """Inherits the marks of `Symmetric`; it is not what was marked."""


class Unmarked(Base): ...


@mark_quantizer(ACTIVATION, [QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
class Both(Base): ...


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [
        (WEIGHTS, QuantizationMethod.SYMMETRIC, Symmetric),
        (WEIGHTS, QuantizationMethod.POWER_OF_TWO, PowerOfTwo),
        (ACTIVATION, QuantizationMethod.SYMMETRIC, Both),
        (ACTIVATION, QuantizationMethod.UNIFORM, Both),
    ],
)
def test_exactly_the_marked_class_is_found(target, method, expected):
    assert get_inferable_quantizer_class(target, method, Base) is expected


def test_no_match_raises_and_lists_what_exists():
    with pytest.raises(ValueError, match=r"Received: \[\] of \['Both', 'PowerOfTwo', 'Symmetric'"):
        get_inferable_quantizer_class(WEIGHTS, QuantizationMethod.UNIFORM, Base)


def test_two_matches_raise_and_are_named():
    class Ambiguous(BaseInferableQuantizer): ...

    marked = mark_quantizer(WEIGHTS, [QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
    first = marked(type("First", (Ambiguous,), {}))
    second = marked(type("Second", (Ambiguous,), {}))
    with pytest.raises(ValueError, match=r"Received: \['First', 'Second'\]"):
        get_inferable_quantizer_class(WEIGHTS, QuantizationMethod.UNIFORM, Ambiguous)
    assert {first, second} == get_all_subclasses(Ambiguous)


def test_all_subclasses_are_found_at_any_depth_without_the_class_itself():
    assert get_all_subclasses(Base) == {Symmetric, PowerOfTwo, Trainable, UnmarkedChild, Unmarked, Both}
    assert get_all_subclasses(Unmarked) == set()


def test_a_class_that_is_defined_again_replaces_the_former():
    class Notebook(BaseInferableQuantizer): ...

    def cell():
        @mark_quantizer(WEIGHTS, [QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
        class Mine(Notebook): ...

        return Mine

    first, second = cell(), cell()
    assert first is not second
    assert get_inferable_quantizer_class(WEIGHTS, QuantizationMethod.UNIFORM, Notebook) is second
