# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What operations of all frameworks do with arguments that have to keep their values, as data.

Operations are named as the frameworks name them, in lower case and without underscores: `true_divide` of torch and
`TrueDivide` of Keras are "truedivide".
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from model_compression_toolkit.core.common.operation import Reading, Trait, is_sentinel


class _Argument(NamedTuple):
    position: int
    keywords: tuple[str, ...]


_FIRST = _Argument(0, ("x", "x1", "input", "inputs", "self"))
_SECOND = _Argument(1, ("x2", "other"))
_THIRD = _Argument(2, ("tensor2",))
_INDICES = _Argument(1, ("indices", "index"))
_INDICES_AFTER_DIM = _Argument(2, ("index",))
_CONDITION = _Argument(0, ("condition",))
_SCORE_MASK = _Argument(3, ("attn_mask", "bias"))
_KEY_MASK = _Argument(3, ("key_padding_mask",))
_ATTENTION_MASK = _Argument(5, ("attn_mask", "attention_mask"))

_READINGS: dict[Reading, dict[_Argument, str]] = {
    Reading.DIVISOR: {
        _SECOND: "div truediv itruediv truedivide divide dividenonan floordiv ifloordiv floordivide mod imod fmod "
        "remainder",
        _THIRD: "addcdiv",
    },
    Reading.ROOT: {_FIRST: "sqrt rsqrt log log2 log10 reciprocal std"},
    Reading.NORMALIZED: {
        _FIRST: "normalize unitnormalization cosinesimilarity",
        _Argument(1, ("x2",)): "cosinesimilarity",
    },
    Reading.INDEX: {
        _FIRST: "embedding embeddingbag onehot categoryencoding",
        _INDICES: "take takealongaxis takealongdim",
        _INDICES_AFTER_DIM: "indexselect gather",
    },
    Reading.INTEGER: {
        _FIRST: "long int short char byte bucketize digitize discretization hashing integerlookup hashedcrossing "
        "bincount",
        _SECOND: "searchsorted",
    },
    Reading.EQUALITY: {
        _FIRST: "eq ne equal notequal isin bool logicalnot logicaland logicalor logicalxor nonzero masking",
        _SECOND: "eq ne equal notequal logicaland logicalor logicalxor",
        _CONDITION: "where",
    },
    Reading.ORDER: {
        _FIRST: "gt ge lt le greater greaterequal less lessequal argmax argmin argsort isnan isinf isfinite",
        _SECOND: "gt ge lt le greater greaterequal less lessequal",
    },
    Reading.MASK: {
        _SCORE_MASK: "scaleddotproductattention dotproductattention",
        _KEY_MASK: "multiheadattention",
        _ATTENTION_MASK: "multiheadattention groupqueryattention",
        _Argument(1, ("mask", "src_mask")): "transformerencoderlayer transformerencoder",
        _Argument(2, ("src_key_padding_mask", "tgt_mask")): "transformerencoderlayer transformerencoder "
        "transformerdecoderlayer transformerdecoder",
        _Argument(3, ("memory_mask",)): "transformerdecoderlayer transformerdecoder",
    },
}
_OF = {
    name: [
        (argument, reading)
        for reading, arguments in _READINGS.items()
        for argument, names in arguments.items()
        if name in names.split()
    ]
    for name in {name for arguments in _READINGS.values() for names in arguments.values() for name in names.split()}
}
_DIVISIONS = ("div", "truediv", "truedivide", "divide")
_POWERS = ("pow", "ipow", "power")

_TRAITS: dict[Trait, str] = {
    Trait.SIZE: "add iadd mul imul multiply sum mean var std square pow ipow power abs absolute max amax maximum clamp "
    "clampmin clip norm vectornorm linalgnorm linalgvectornorm sqrt cumsum",
    Trait.STEP: "mul imul multiply div truediv itruediv truedivide divide neg negative float double half bfloat16 to "
    "type cast clamp clip clampmin maximum nantonum round floor ceil",
    Trait.SUM: "add iadd sub isub rsub subtract minimum",
    Trait.MASKING: "maskedfill maskedscatter where",
    Trait.INVERSE: "rsqrt reciprocal",
    Trait.SOFTMAX: "softmax logsoftmax softmin softmax2d logsumexp",
}


def neutral_name(name: str) -> str:
    """The name by which the tables of all frameworks call an operation."""
    return name.replace("_", "").lower()


def readings_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Any, Reading]]:
    """The arguments that have to keep their values, with how they are read; numbers among them, too.

    Args:
        name: the name of an operation, see `neutral_name`.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    found = []
    for argument, reading in _OF.get(name, []):
        if argument.position < len(args):
            found.append((args[argument.position], reading))
        found.extend((kwargs[keyword], reading) for keyword in argument.keywords if keyword in kwargs)
    if name in _POWERS and _is_root(_exponent(args, kwargs)):
        found.append((args[0] if args else next(iter(kwargs.values())), Reading.ROOT))
    return found


def traits_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Trait:
    """What else matters of an operation for masks and divisors.

    Args:
        name: the name of an operation, see `neutral_name`.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    traits = Trait.NONE
    for trait, names in _TRAITS.items():
        if name in names.split():
            traits |= trait
    if name in _POWERS and isinstance(exponent := _exponent(args, kwargs), (int, float)) and exponent < 0:
        traits |= Trait.INVERSE
    if name in _DIVISIONS and args and isinstance(args[0], (int, float)):
        traits |= Trait.INVERSE
    if Trait.MASKING in traits and any(is_sentinel(item) for item in (*args, *kwargs.values())):
        traits |= Trait.SENTINEL
    return traits


def _exponent(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("exponent", kwargs.get("x2"))


def _is_root(exponent: Any) -> bool:
    """Whether a power has no value, or no gradient, at zero."""
    return not isinstance(exponent, (int, float)) or exponent < 1
