"""Encodes jaxvi's own specifications (families, solvers, ...) as JSON, and decodes them.

Only classes of a fixed list are created, from numbers, strings and each other, so that reading a
file can call nothing else.
"""

import dataclasses
from typing import Any

import optax

from jaxvi import data, families, noise, objectives, solvers
from jaxvi.solvers import Stochastic

_OPTIMISERS = (
    *("adabelief", "adadelta", "adagrad", "adam", "adamax", "adamaxw", "adamw", "amsgrad"),
    *("lamb", "lars", "lion", "nadam", "nadamw", "novograd", "radam", "rmsprop", "sgd", "sm3"),
    "yogi",
)


class _NotPlainError(Exception):
    """Raised for a value that can't be written as numbers and names."""


def encode(spec: Any) -> Any:
    """JSON of a specification in a list of one; an empty list if it could not be decoded."""
    try:
        text = _encode(spec)
        return [text] if _decode(text) == spec else []
    except (_NotPlainError, TypeError, ValueError):
        return []


def decode(found: Any) -> Any:
    """The specification that `encode` was given; `found` must not be empty."""
    return _decode(found[0])


def _encode(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is tuple:
        return {"tuple": [_encode(part) for part in value]}
    name = type(value).__name__
    if _classes().get(name) is type(value) and dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"spec": name, "fields": {field: _encode(part) for field, part in fields.items()}}
    name = getattr(value, "__name__", "")
    if name in _OPTIMISERS and getattr(optax, name, None) is value:
        return {"optimiser": name}
    raise _NotPlainError


def _decode(text: Any) -> Any:
    if not isinstance(text, dict):
        return text
    if "tuple" in text:
        return tuple(_decode(part) for part in text["tuple"])
    if "optimiser" in text:
        name = text["optimiser"]
        if name not in _OPTIMISERS:
            raise ValueError(f"expected one of {', '.join(_OPTIMISERS)}; got {name!r}.")
        return getattr(optax, name)
    kind = _classes().get(text["spec"])
    if kind is None:
        raise ValueError(f"expected a specification of jaxvi's; got {text['spec']!r}.")
    fields = {name: _decode(part) for name, part in text["fields"].items()}
    if kind is Stochastic:
        return Stochastic(fields.pop("optimizer"), **dict(fields.pop("numbers")), **fields)
    return kind(**fields)


def _classes() -> dict[str, Any]:
    """Specifications among the public names of data, families, noise, objectives and solvers."""
    named: dict[str, Any] = {
        name: getattr(package, name)
        for package in (data, families, noise, objectives, solvers)
        for name in package.__all__
    }
    return {
        name: kind
        for name, kind in named.items()
        if dataclasses.is_dataclass(kind) and kind.__hash__ is not object.__hash__
    }
