# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of `keras.ops` that multiply matrices, in operators of ONNX."""

from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["PRODUCTS"]


def _matmul(site: Site) -> str:
    return site.add("MatMul", *(site.operand(argument, site.result.dtype) for argument in site.call.args[:2]))


def _einsum(site: Site) -> str:
    equation = site.operation.subscripts.replace(" ", "")
    if "->" not in equation:
        site.refuse(f"subscripts={equation!r}", "Write the result's axes behind `->`.")
    operands = (site.operand(argument, site.result.dtype) for argument in site.call.args)
    return site.add("Einsum", *operands, equation=equation)


# By the name of their class.
PRODUCTS: dict[str, Translator] = {"Matmul": _matmul, "Einsum": _einsum}
