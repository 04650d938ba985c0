# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""One operation of a model of any framework: the part it plays, and how it reads each of its arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, auto


class Kind(Enum):
    """The part an operation plays."""

    WEIGHTED = auto()
    """A layer with a weight that can be quantized."""
    COMPUTE = auto()
    """A product of two tensors: accumulates in a wide integer."""
    ADD = auto()
    """An addition: can take in the accumulator of a product."""
    BATCH_NORM = auto()
    """An affine map of each channel in evaluation."""
    ACTIVATION = auto()
    """A function of one element, computed on the accumulator."""
    PRESERVING = auto()
    """Only moves or selects values: a quantized tensor stays on its grid."""
    OTHER = auto()
    """Anything else that makes new values."""


class Reading(Enum):
    """How an operation reads an argument that has to keep its values; the value is the reason that plans give."""

    DIVISOR = "a divisor: a grid has a code for zero"
    ROOT = "the argument of a root, a logarithm or a negative power: a grid has a code for zero"
    NORMALIZED = "it is divided by its own length: a grid has a code for zero"
    INDEX = "indices are not quantized"
    INTEGER = "it is cast to integers, or sorted into bins"
    EQUALITY = "it is compared with single values"
    ORDER = "it is only compared"
    INVERSE = "it is multiplied in the place of a division: small lengths have large inverses"
    MASK = "an attention mask: its values mark places"

    @property
    def is_strict(self) -> bool:
        """Whether the tensor keeps its values even where another operation reads it too."""
        return self is not Reading.ORDER


class Trait(Flag):
    """What else matters of an operation, beside its kind."""

    NONE = 0
    SIZE = auto()
    """Of one tensor: a sum, mean, square or another step on the way to a length or deviation."""
    STEP = auto()
    """Works on single elements, and leaves masked places masked: a product with a number, a cast."""
    SUM = auto()
    """Adds its arguments or takes one from the other: may add a mask."""
    MASKING = auto()
    """Puts other values at some places, or adds constants: masks, where a softmax follows."""
    SENTINEL = auto()
    """Puts a value at some places that is far from all others."""
    INVERSE = auto()
    """The inverse of its argument, perhaps of the root of it."""
    SOFTMAX = auto()
    """Divides the exponentials of its argument by their sum."""


_FAR = 1e3


def is_sentinel(value: object) -> bool:
    """Whether a constant that is put at some places of a tensor is no value, but marks the places.

    A trained network has no activations of such a size; masks have from -1e4 to the least number and -infinity.
    """
    return isinstance(value, (int, float)) and abs(value) >= _FAR


@dataclass(eq=False, slots=True)
class Operation:
    """One call of a layer or function, or an input or the output of the model.

    Attributes:
        layer: the name that plans use.
        kind: the part it plays.
        type: class of the layer or name of the function.
        sources: the operations whose results it takes, in the order of its arguments, each once.
        shape: of its result for one batch; None where that is no floating-point tensor.
        users: the operations that take its result, each once.
        is_input: whether it is an input of the model.
        is_output: whether it stands for the model's outputs.
        is_lookup: whether it only picks rows of a weight.
        has_activation: whether the layer applies an activation function of its own to its product.
        readings: how it reads those of its sources that have to keep their values.
        traits: what else matters of it.
    """

    layer: str
    kind: Kind
    type: str
    sources: Sequence["Operation"] = ()
    shape: tuple[int, ...] | None = None
    users: list["Operation"] = field(default_factory=list)
    is_input: bool = False
    is_output: bool = False
    is_lookup: bool = False
    has_activation: bool = False
    readings: Mapping["Operation", Reading] = field(default_factory=dict)
    traits: Trait = Trait.NONE

    def __post_init__(self) -> None:
        for source in self.sources:
            source.users.append(self)
