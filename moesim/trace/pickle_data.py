"""Read a pickle as data, without unpickling it.

A pickle is a program for a stack machine, and Python's own machine imports and calls whatever the program
names. This one knows the instructions that build plain values - numbers, texts, lists, tuples, dicts - and a
table of names the caller trusts, each bound to a function of ours. Any other name or instruction is an error,
so nothing outside the table is ever looked up, let alone called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.limits import MAX_PICKLE_BYTES, size_fault

Build = Callable[..., Any]
Globals = Mapping[tuple[str, str], Any]

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, bool, bytes, type(None))
_MARK = object()


@dataclass(slots=True)
class _Function:
    """A trusted name of the pickle, bound to our own function."""

    name: str
    build: Build


class DType:
    """A numpy data type under construction: pickles name it first and set its byte order after."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in (
            "i1",
            "i2",
            "i4",
            "i8",
            "u1",
            "u2",
            "u4",
            "u8",
            "f4",
            "f8",
        ):
            raise ValueError(f"the data type {code!r} is not allowed")
        self.dtype = np.dtype(code)

    def set_state(self, state: object) -> None:
        """Take the byte order."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a data type has a strange state")
        self.dtype = self.dtype.newbyteorder(state[1])

    def scalar(self, data: object) -> int | float:
        """A number from its bytes."""
        if not isinstance(data, bytes) or len(data) != self.dtype.itemsize:
            raise ValueError("a numpy number has the wrong length")
        value: int | float = np.frombuffer(data, self.dtype)[0].item()
        return value


def _scalar(dtype: object, data: object = None) -> int | float:
    if not isinstance(dtype, DType):
        raise ValueError("a numpy number has no data type")
    return dtype.scalar(data)


def _mapping(items: object = ()) -> dict[Any, Any]:
    if isinstance(items, dict):
        return items
    if not isinstance(items, list | tuple) or not all(
        isinstance(i, list | tuple) and len(i) == 2 for i in items
    ):
        raise ValueError("a dict is built from something else")
    return {_flat(key): value for key, value in items}


def _flat(key: object) -> Any:  # noqa: ANN401
    """A key that is a number, a text or a tuple of such: hashing deeply shared tuples takes for ever."""
    parts = key if type(key) is tuple else (key,)
    if not all(type(part) in _KEYS for part in parts):
        raise ValueError("a dict has a key that is no number or text")
    return key


def _bytes(text: object = "", encoding: object = "latin1") -> bytes:
    """Bytes as protocol 2 spells them: a text of characters below 256, and its encoding."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are built from something else")
    return text.encode("latin1")


#: Names that stand for plain values: bytes as old protocols write them, numpy numbers, and the dict types of
#: the standard library.
PLAIN: Globals = {
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("collections", "OrderedDict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("numpy", "dtype"): DType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


def read_pickle(
    data: bytes,
    path: object,
    where: str = "",
    names: Globals = PLAIN,
    persistent: Build | None = None,
) -> Any:  # noqa: ANN401 - whatever the pickle holds
    """The value a pickle describes.

    Parameters
    ----------
    data
        The pickle, protocol 2 or later.
    path, where
        The file and the part of it, for messages.
    names
        ``(module, name)`` to what stands for it: a function of ours that a call in the pickle runs, or a
        value that is taken as it is.
    persistent
        Called with the id of an object kept outside the pickle.

    Raises
    ------
    TraceError
        If the pickle names anything else, uses another instruction, is damaged or too large.

    Examples
    --------
    >>> import pickle
    >>> read_pickle(pickle.dumps({"a": [1, 2.5, None]}), "x.pkl")
    {'a': [1, 2.5, None]}
    """
    fault = size_fault(len(data), where or "the pickle", MAX_PICKLE_BYTES)
    if fault:
        raise TraceError(fault, path)
    try:
        return _Machine(names, persistent).run(data)
    except _RefusedError as refused:
        allowed = ", ".join(sorted({".".join(key) for key in names}))
        raise TraceError(Fault(str(refused), where, allowed=f"plain values and {allowed}"), path) from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, AttributeError) as error:
        raise TraceError(
            Fault(f"is no pickle of plain data, or is truncated: {error}", where), path
        ) from None


class _RefusedError(Exception):
    """The pickle asks for something that is not on the list."""


class _Machine:
    def __init__(self, names: Globals, persistent: Build | None) -> None:
        self._names, self._persistent = names, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:  # noqa: ANN401
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                (value,) = self._stack
                return value
            self._step(name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:  # noqa: ANN401
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(self._pop(2) if name == "SETITEM" else self._since_mark())
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)
            stack.append(self._find(module, attribute))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            (state,) = self._pop(1)
            self._top(DType).set_state(state)
        elif name == "BINPERSID" and self._persistent is not None:
            stack.append(self._persistent(*self._pop(1)))
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"the pickle uses the instruction {name}, which plain data does not need")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("the stack is empty")
        items = self._stack[-count:]
        del self._stack[-count:]
        if any(item is _MARK for item in items):
            raise ValueError("a mark is out of place")
        return items

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _top(self, kind: type[Any]) -> Any:  # noqa: ANN401
        top = self._stack[-1]
        if type(top) is not kind:
            raise _RefusedError(f"the pickle changes a {type(top).__name__}, which plain data does not need")
        return top

    def _set_items(self, flat: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[_flat(key)] = value

    def _find(self, module: object, attribute: object) -> Any:  # noqa: ANN401
        if (module, attribute) not in self._names:
            raise _RefusedError(f"the pickle asks for {module}.{attribute}, which is not allowed")
        found = self._names[(str(module), str(attribute))]
        return _Function(f"{module}.{attribute}", found) if callable(found) else found

    def _call(self, function: object, arguments: object) -> Any:  # noqa: ANN401
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise _RefusedError("the pickle calls something that is no trusted function")
        return function.build(*arguments)
