"""Digests of functions, specifications and arrays that are the same in every process.

Python's `hash` of a function is its place in memory. Here a function's digest covers what it does:
its name, its bytecode, its constants, what it closes over, its defaults, and the numbers and
functions of its own module that it refers to. The module's name is left out, since a script has
another one when it is imported. Of functions in other modules only the names are covered (versions
of jaxvi and JAX are compared separately); of objects other than dataclasses, arrays and containers
only the `repr`.
"""

import dataclasses
import functools
import hashlib
import inspect
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_OWN = "jaxvi"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(value: Any) -> str:
    """SHA-256 of a value, in hexadecimal."""
    return _Digest().add(value).hex()


class _Digest:
    """A SHA-256 over Python values.

    Each object enters by its own digest, so that two equal objects count as one object used twice.
    An object that contains itself is cut off where it recurs.
    """

    def __init__(self, known: dict[int, tuple[Any, str]] | None = None) -> None:
        self._hash = hashlib.sha256()
        self._known: dict[int, tuple[Any, str]] = {} if known is None else known

    def hex(self) -> str:
        return self._hash.hexdigest()

    def word(self, *words: Any) -> None:
        for each in words:
            text = str(each).encode()
            self._hash.update(f"{len(text)}:".encode() + text)

    def add(self, value: Any) -> "_Digest":
        """Add a value to the hash, tagged by its type."""
        if isinstance(value, _PLAIN):
            self.word(type(value).__name__, repr(value))
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            self._array(value)
        elif isinstance(value, PyTreeDef | types.ModuleType):
            self.word(type(value).__name__, _ADDRESS.sub("", str(value)))
        else:
            if id(value) not in self._known:
                # the value is kept alive, so that no other has its id
                self._known[id(value)] = (value, "itself")
                inner = _Digest(self._known)
                inner._object(value)
                self._known[id(value)] = (value, inner.hex())
            self.word(self._known[id(value)][1])
        return self

    def _all(self, kind: str, values: Any) -> None:
        values = list(values)
        self.word(kind, len(values))
        for value in values:
            self.add(value)

    def _array(self, value: Any) -> None:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            self.word("key", jax.random.key_impl(value))
            value = jax.random.key_data(value)
        array = np.asarray(value)
        self.word("array", array.dtype, array.shape)
        self._hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _object(self, value: Any) -> None:
        if isinstance(value, dict):
            items = sorted(value.items(), key=lambda item: repr(item[0]))
            self._all("dict", [part for item in items for part in item])
        elif isinstance(value, list | tuple):
            self._all(type(value).__name__, value)
        elif isinstance(value, set | frozenset):
            self.word("set", *sorted(fingerprint(each) for each in value))
        elif isinstance(value, functools.partial):
            self._all("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            self._all("method", (value.__func__, value.__self__))
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, type):
            self.word("type", value.__qualname__)
        elif hasattr(value, "__wrapped__"):  # jitted, or a decorator's
            self._all("wrapped", (inspect.unwrap(value),))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif dataclasses.is_dataclass(value):
            self.add(type(value))
            self._call_of(value)
            fields = dataclasses.fields(value)
            self._all("fields", [getattr(value, field.name, None) for field in fields])
        else:
            name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
            self.word("object", type(value).__module__, type(value).__qualname__, name)
            self.word(_ADDRESS.sub("", repr(value)))
            self._call_of(value)

    def _call_of(self, value: Any) -> None:
        """Add the `__call__` of an object that can be called like a function."""
        for kind in type(value).__mro__:
            call = vars(kind).get("__call__")
            if isinstance(call, types.FunctionType):
                self.add(call)
                break

    def _function(self, function: types.FunctionType) -> None:
        own = str(function.__module__).split(".")[0] == _OWN
        self.word("function", function.__module__ if own else "", function.__qualname__)
        cells = function.__closure__ or ()
        self._all("cells", [_content(cell) for cell in cells])
        self._all("defaults", (function.__defaults__, function.__kwdefaults__))
        if own:
            return  # jaxvi's version is compared instead; tests decorate its functions
        self.add(function.__code__)
        for name in _names(function.__code__):
            found = function.__globals__.get(name)
            near = getattr(found, "__module__", None) == function.__module__
            if (near and callable(found)) or _is_constant(found):
                self.word("global", name)
                self.add(found)

    def _code(self, code: types.CodeType) -> None:
        """Add bytecode and constants, but neither line numbers nor file names."""
        self.word("code", code.co_argcount, code.co_kwonlyargcount, code.co_flags)
        self.word(code.co_code.hex(), *code.co_names, "/", *code.co_freevars)
        self._all("constants", code.co_consts)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return "empty"


def _names(code: types.CodeType) -> list[str]:
    """Names that the code and the functions inside it look up, sorted."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return sorted({*code.co_names, *(name for part in inner for name in _names(part))})


def _is_constant(value: Any) -> bool:
    """Whether a value is a number, a text, an array, or a tuple of them."""
    if isinstance(value, tuple):
        return all(_is_constant(part) for part in value)
    plain = isinstance(value, _PLAIN) and value is not None
    return plain or isinstance(value, np.ndarray | np.generic | jax.Array)
