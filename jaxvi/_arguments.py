"""Validation of arguments: each check returns the value as plain Python or raises with a remedy.

A check takes the argument's name, its value and its limits. Errors have the form "expected ...;
got ...; try ...".
"""

import contextlib
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key


def integer(name: str, value: Any, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
    """`value` as a Python integer from `minimum` to `maximum`, by default one that 32 bits hold."""
    number = minimum - 1
    if not isinstance(value, bool | np.bool_):
        with contextlib.suppress(TypeError):
            number = operator.index(value)
    if not minimum <= number <= maximum:
        bounds = f"from {minimum} to {maximum}"
        if maximum >= 2**31 - 1:
            bounds = f"of at least {minimum}, below 2**31"
        short = name.rpartition(".")[2]
        raise ValueError(
            f"{name}: expected a whole number {bounds}; got {value!r:.80}; try "
            f"{short}={min(max(minimum, 10), maximum)}."
        )
    return number


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    example: float = 1.0,
) -> float:
    """`value` as a finite float above `above`, below `below` and not larger than `at_most`."""
    is_real = isinstance(value, int | float | np.integer | np.floating)
    valid = is_real and not isinstance(value, bool) and above < value < below and value <= at_most
    if not valid:
        bounds = f" above {above:g}" if above > -math.inf else ""
        bounds += f" and below {below:g}" if below < math.inf else ""
        bounds += f" and at most {at_most:g}" if at_most < math.inf else ""
        short = name.rpartition(".")[2]
        raise ValueError(
            f"{name}: expected a finite number{bounds}; got {value!r:.80}; try {short}={example!r}."
        )
    return float(value)


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value`, which must equal one of `choices`: strings, booleans or None."""
    plain = value is None or isinstance(value, str | bool | np.bool_)
    if not (plain and any(value == choice for choice in choices)):
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {listed}; got {value!r:.80}.")
    return bool(value) if isinstance(value, np.bool_) else value


def flag(name: str, value: Any) -> bool:
    """`value` as a Python boolean."""
    return one_of(name, value, (True, False))


def instance(name: str, value: Any, kind: type | tuple[type, ...], example: str) -> Any:
    """`value`, which must be an instance of `kind`. The class itself is the usual slip."""
    if isinstance(value, kind):
        return value
    got = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.80}"
    raise TypeError(f"{name}: expected {example}; got {got}.")


def typed_key(key: Any) -> Key[Array, ""]:
    """`key` as a typed JAX random key; a raw key, a vector of uint32, is wrapped."""
    got = f"{key!r:.80}"
    if isinstance(key, jax.Array | np.ndarray):
        got = f"an array of {key.dtype} with shape {key.shape}"
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if typed and isinstance(key, jax.Array) and key.shape == ():
            return key
        if key.dtype == jnp.uint32 and key.ndim == 1:
            with contextlib.suppress(TypeError, ValueError):
                return jax.random.wrap_key_data(jnp.asarray(key))
    raise TypeError(f"key: expected one JAX random key; got {got}; try jax.random.key(0).")


def check_field(
    spec: Any,
    name: str,
    check: Callable[..., Any],
    *limits: Any,
    optional: bool = False,
    **options: Any,
) -> None:
    """Checks a field of a frozen dataclass by one of the checks above and stores what it returns.

    None passes if the field is `optional`.
    """
    value = getattr(spec, name)
    if value is None and optional:
        return
    if check is number:
        default = getattr(type(spec), name, None)
        options.setdefault("example", 1.0 if default is None else default)
    checked = check(f"{type(spec).__name__}.{name}", value, *limits, **options)
    object.__setattr__(spec, name, checked)  # the dataclass is frozen
