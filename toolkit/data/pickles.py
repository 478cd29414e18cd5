"""Pickles as data: the plain values in a pickle, without unpickling it.

In: bytes. Out: dictionaries, lists, text, numbers and arrays. Nothing that the pickle names is
imported or called: the opcodes that CIFAR's files consist of build values here, and all others are
refused. numpy's own functions for arrays are known by their names only.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_ARRAY_MAKERS = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
_DTYPE, _LATIN = "numpy dtype", "_codecs encode"
_NAMES = {*_ARRAY_MAKERS, _DTYPE, _LATIN, "numpy ndarray"}
_MOST_OPCODES = 5_000_000


class NotPlainDataError(ValueError):
    """A pickle is damaged, or contains more than plain values and arrays."""


@dataclass(frozen=True)
class Name:
    """The name of a function or class in a pickle; it is never looked up."""

    text: str


@dataclass
class PickledDtype:
    """A dtype in a pickle, by its code, such as `u1`."""

    code: str


@dataclass
class PickledArray:
    """An array in a pickle: what it is made of."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    fortran: bool = False
    content: bytes = b""


class _Mark:
    """The place of a MARK on the stack."""


@dataclass
class _Machine:
    """The stack and the memory of a pickle."""

    stack: list[Any] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        """Return and remove the value on top."""
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise NotPlainDataError("its values are out of order")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Return and remove the values above the last mark."""
        values: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if isinstance(value, _Mark):
                return values[::-1]
            values.append(value)
        raise NotPlainDataError("its values are out of order")

    def top(self, kind: type) -> Any:
        """Return the value on top, of this kind."""
        value = self.pop()
        if not isinstance(value, kind):
            raise NotPlainDataError(f"a {type(value).__name__} where a {kind.__name__} is expected")
        self.stack.append(value)
        return value


def read_pickle(content: bytes) -> Any:
    """Return the value of a pickle.

    Raises:
        NotPlainDataError: Damaged, or it contains more than plain values and arrays.
    """
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if number == _MOST_OPCODES:
                raise NotPlainDataError(f"it has more than {_MOST_OPCODES:,} steps")
            if opcode.name == "STOP":
                return machine.pop()
            _step(machine, opcode.name, argument)
    except NotPlainDataError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise NotPlainDataError(f"damaged: {type(error).__name__}") from error
    raise NotPlainDataError("it has no end")


def _step(machine: _Machine, name: str, argument: Any) -> None:
    if name in _VALUES:
        machine.stack.append(argument)
    elif name in _CONSTANTS:
        machine.stack.append(_CONSTANTS[name]())
    elif name in _ACTIONS:
        _ACTIONS[name](machine, argument)
    elif name not in _IGNORED:
        raise NotPlainDataError(f"it contains {name}, which is not plain data")


def _global(machine: _Machine, argument: str) -> None:
    if argument not in _NAMES:
        raise NotPlainDataError(f"it names {argument.replace(' ', '.')}, which is not plain data")
    machine.stack.append(Name(argument))


def _stack_global(machine: _Machine, argument: None) -> None:
    name, module = machine.pop(), machine.pop()
    _global(machine, f"{module} {name}")


def _reduce(machine: _Machine, argument: None) -> None:
    """Make the value that a known function would return, without calling it."""
    arguments, function = machine.pop(), machine.pop()
    known = function.text if isinstance(function, Name) else ""
    if known in _ARRAY_MAKERS:
        machine.stack.append(PickledArray())
    elif known == _DTYPE:
        machine.stack.append(PickledDtype(_text(arguments[0])))
    elif known == _LATIN:
        machine.stack.append(_text(arguments[0]).encode("latin-1"))
    else:
        raise NotPlainDataError("it calls something that is not plain data")


def _build(machine: _Machine, argument: None) -> None:
    """Give an array its shape, dtype and bytes; the state of a dtype says nothing more."""
    state = machine.pop()
    target = machine.pop()
    if isinstance(target, PickledArray):
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, PickledDtype):
            raise NotPlainDataError("an array without a dtype")
        target.shape = tuple(int(size) for size in shape)
        target.dtype, target.fortran = dtype.code, bool(fortran)
        target.content = _text(content).encode("latin-1")
    elif not isinstance(target, PickledDtype):
        raise NotPlainDataError("it sets the state of something that is not plain data")
    machine.stack.append(target)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    target = machine.top(dict)
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[_text(key)] = value


def _put(machine: _Machine, place: int) -> None:
    machine.memory[place] = machine.top(object)


def _memoize(machine: _Machine, argument: None) -> None:
    _put(machine, len(machine.memory))


def _get(machine: _Machine, place: int) -> None:
    machine.stack.append(machine.memory[place])


def _text(value: Any) -> str:
    """Return a key or a code as text; Python 3 reads that of Python 2 as bytes."""
    if not isinstance(value, bytes | str):
        raise NotPlainDataError(f"a {type(value).__name__} where text is expected")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, argument: None) -> None:
        values = [machine.pop() for _ in range(count)][::-1]
        machine.stack.append(tuple(values))

    return make


# Values that an opcode carries. Python 2's text arrives as text; bytes stay bytes.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "PUT": _put,
    "MEMOIZE": _memoize,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "GET": _get,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "DICT": lambda machine, _: _dict(machine, machine.pop_to_mark()),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_to_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, [machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
}
_IGNORED = {"PROTO", "FRAME"}


def _append(machine: _Machine, values: list[Any]) -> None:
    machine.top(list).extend(values)


def _dict(machine: _Machine, values: list[Any]) -> None:
    machine.stack.append({})
    _set_items(machine, values)
