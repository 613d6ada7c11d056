"""A pickle reader that cannot run anything: it interprets the opcodes itself, and knows no import and no call.

Python's own unpickler looks classes up and calls them; here a name stays a name, and a call becomes a `Record` of what
would have been called with what. The few calls that a checkpoint's contents are made of (ordered dictionaries,
tensors) are looked up in a table of our functions by the name as a string.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))


class PickleError(ValueError):
    """The bytes are no pickle, or one that contradicts itself."""


@dataclass(frozen=True)
class Global:
    """The dotted name of something that the pickle wants to have imported."""

    name: str


@dataclass(eq=False)
class Record:
    """An object that was not made: what would have been called, with what, and what would have been put into it."""

    name: str
    args: tuple[Any, ...] = field(default=(), repr=False)  # what refers to itself has no end to print
    state: Any = field(default=None, repr=False)
    items: list[Any] = field(default_factory=list, repr=False)
    """Elements of a list or set, or (key, value) pairs of a dictionary, given after it was made."""

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute or entry `key`, as argparse.Namespace, dictionaries and OmegaConf nodes would have it."""
        state = self.state if isinstance(self.state, dict) else {}
        content = state.get("_content")
        for place in (state, content if isinstance(content, dict) else {}, dict(self._pairs())):
            if key in place:
                value = place[key]
                return value.get("_val") if isinstance(value, Record) and value.get("_val") is not None else value
        return default

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [item for item in self.items if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)]


Builder = Callable[..., Any]
_UNREADABLE = (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, AttributeError)


def read_pickle(
    stream: IO[bytes], builders: Mapping[str, Builder], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The one pickle that begins at `stream`'s position, which is left behind it.

    `builders` are our own functions by the global name that they stand for; everything else becomes a `Record`. Sets
    become lists. `persistent` makes a value of a persistent id. Raises `PickleError`.
    """
    machine = _Machine(builders, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except _UNREADABLE as error:
        raise PickleError(f"{type(error).__name__}: {error}") from error
    raise PickleError("it has no end")


class _Machine:
    def __init__(self, builders: Mapping[str, Builder], persistent: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self._below_marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._builders, self._persistent = builders, persistent

    def step(self, name: str, argument: Any) -> None:
        """Apply the opcode `name`."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._below_marks.append(stack)
                self.stack = []
            case "POP" if stack:
                stack.pop()
            case "POP":
                self.stack = self._below_marks.pop()
            case "POP_MARK":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                if len(stack) < (count := int(name[-1])):
                    raise PickleError("a tuple of more than there is")
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "LIST" | "FROZENSET":
                values = self._marked()
                self.stack.append(tuple(values) if name == "TUPLE" else values)
            case "DICT":
                values = self._marked()
                self.stack.append({})
                self._set_items(values)
            case "APPEND":
                self._append([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._append(self._marked())
            case "SETITEM":
                self._set_items([stack.pop(-2), stack.pop()])
            case "SETITEMS":
                self._set_items(self._marked())
            case "GLOBAL":
                stack.append(Global(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                module, name = stack.pop(-2), stack.pop()
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise PickleError("a global whose name is no text")
                stack.append(Global(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                self._call(stack.pop(-2), stack.pop())
            case "NEWOBJ_EX":
                keywords, arguments, kind = stack.pop(), stack.pop(), stack.pop()
                self._call(kind, arguments)
                if isinstance(stack[-1], Record):
                    stack[-1].state = keywords
            case "INST":
                self._call(Global(argument.replace(" ", ".")), tuple(self._marked()))
            case "OBJ":
                kind, *arguments = self._marked()
                self._call(kind, tuple(arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(
                    stack[-1], Record
                ):  # attributes of a dictionary, a state dict's `_metadata`, are not kept
                    stack[-1].state = state
            case "PERSID" | "BINPERSID":
                if self._persistent is None:
                    raise PickleError("a persistent id where there is none to resolve it")
                stack.append(self._persistent(argument if name == "PERSID" else stack.pop()))
            case "EXT1" | "EXT2" | "EXT4" | "NEXT_BUFFER" | "READONLY_BUFFER":
                raise PickleError(f"opcode {name} refers to something outside of the file")
            case _:  # numbers, strings and bytes: pickletools has decoded them
                stack.append(argument)

    def _marked(self) -> list[Any]:
        values = self.stack
        self.stack = self._below_marks.pop()
        return values

    def _append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Record | list):
            raise PickleError(f"elements for a {type(target).__name__}")
        (target.items if isinstance(target, Record) else target).extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if len(values) % 2 or not isinstance(target, Record | dict):
            raise PickleError(f"{len(values)} keys and values for a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(target, Record):
                target.items.append((key, value))
            else:
                # A tuple of tuples of ... takes exponential time to hash.
                target[key if isinstance(key, _PLAIN_KEYS) else Record("key", (key,))] = value

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise PickleError("a call whose arguments are no tuple")
        if not isinstance(function, Global):
            self.stack.append(Record("call", (function, arguments)))
        elif function.name in self._builders:
            self.stack.append(self._builders[function.name](*arguments))
        else:
            self.stack.append(Record(function.name, arguments))
