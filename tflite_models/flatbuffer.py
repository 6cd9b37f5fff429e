"""Reading of LiteRT files without TensorFlow: operators, tensors, constants."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated

_FLEX: Final = "Flex"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A kind of operator; custom ones, Flex included, need more than stock LiteRT."""

    name: str
    is_custom: bool

    @property
    def is_flex(self) -> bool:
        """Whether it calls the TensorFlow runtime."""
        return self.is_custom and self.name.startswith(_FLEX)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; None in a shape is any length."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignatureDef:
    """A signature as the file states it."""

    name: str
    subgraph: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subgraph:
    """A subgraph and how often it uses each operator."""

    name: str
    operators: dict[Operator, int]


def subgraphs(content: bytes) -> tuple[Subgraph, ...]:
    """Return the subgraphs of a LiteRT file in its order.

    Raises:
        ValueError: ``content`` is no LiteRT file.
    """
    model = _model(content)
    codes = [
        _operator(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())
    ]
    found = []
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        counts = collections.Counter(
            codes[graph.Operators(j).OpcodeIndex()]
            for j in range(graph.OperatorsLength())
        )
        found.append(Subgraph(name=_text(graph.Name()), operators=dict(counts)))
    return tuple(found)


def signatures(content: bytes) -> tuple[SignatureDef, ...]:
    """Return the signatures of a LiteRT file in its order.

    Raises:
        ValueError: ``content`` is no LiteRT file.
    """
    model = _model(content)
    found = []
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        graph = model.Subgraphs(signature.SubgraphIndex())
        inputs = (signature.Inputs(j) for j in range(signature.InputsLength()))
        outputs = (signature.Outputs(j) for j in range(signature.OutputsLength()))
        found.append(
            SignatureDef(
                name=_text(signature.SignatureKey()),
                subgraph=signature.SubgraphIndex(),
                inputs=tuple(_tensor(graph, each) for each in inputs),
                outputs=tuple(_tensor(graph, each) for each in outputs),
            )
        )
    return tuple(found)


def constants(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the file, bytes) of each constant buffer that is not empty.

    Raises:
        ValueError: ``content`` is no LiteRT file.
    """
    model = _model(content)
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    for i in range(model.BuffersLength()):
        held = model.Buffers(i).DataAsNumpy()
        if isinstance(held, np.ndarray) and held.size:
            offset = held.__array_interface__["data"][0] - start
            yield offset, content[offset : offset + held.size]


def _model(content: bytes) -> Any:  # noqa: ANN401  - generated code without types
    if content[4:8] != b"TFL3":
        raise ValueError(f"not a LiteRT file: bytes 4 to 8 are {content[4:8]!r}")
    return schema_py_generated.Model.GetRootAs(content, 0)


def _operator(code: Any) -> Operator:  # noqa: ANN401  - generated code without types
    custom = code.CustomCode()
    if custom is not None:
        return Operator(name=_text(custom), is_custom=True)
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return Operator(
        name=_name(schema_py_generated.BuiltinOperator, number), is_custom=False
    )


def _tensor(graph: Any, mapped: Any) -> Tensor:  # noqa: ANN401  - as above
    tensor = graph.Tensors(mapped.TensorIndex())
    flexible = not tensor.ShapeSignatureIsNone()
    shape = tensor.ShapeSignatureAsNumpy() if flexible else tensor.ShapeAsNumpy()
    lengths = np.atleast_1d(shape).tolist() if tensor.ShapeLength() else []
    return Tensor(
        name=_text(mapped.Name()),
        shape=tuple(None if length < 0 else length for length in lengths),
        dtype=_name(schema_py_generated.TensorType, tensor.Type()).lower(),
    )


def _name(enumeration: type, number: int) -> str:
    return next(name for name, value in vars(enumeration).items() if value == number)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode()
