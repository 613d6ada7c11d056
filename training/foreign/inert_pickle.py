"""A pickle reader that cannot run anything: it interprets the opcodes itself, and knows no import and no call.

Python's own unpickler looks classes up and calls them; here a name stays a name, and a call becomes a `Record` of what
would have been called with what. The few calls that a checkpoint's contents are made of (ordered dictionaries,
tensors) are looked up in a table of our functions by the name as a string.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = frozenset({"PROTO", "FRAME"})
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_MEMO_READS = frozenset({"GET", "BINGET", "LONG_BINGET"})
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
        self._steps: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "POP": lambda _: self._pop(),
            "POP_MARK": lambda _: self._discard_marked(),
            "DUP": lambda _: self.stack.append(self.stack[-1]),
            "MEMOIZE": lambda _: self._memo.update({len(self._memo): self.stack[-1]}),
            "TUPLE": lambda _: self._push(tuple(self._marked())),
            "LIST": lambda _: self._push(self._marked()),
            "FROZENSET": lambda _: self._push(self._marked()),
            "DICT": lambda _: self._dict(),
            "APPEND": lambda _: self._append([self.stack.pop()]),
            "APPENDS": lambda _: self._append(self._marked()),
            "ADDITEMS": lambda _: self._append(self._marked()),
            "SETITEM": lambda _: self._set_items([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self._set_items(self._marked()),
            "GLOBAL": lambda name: self._push(Global(name.replace(" ", "."))),
            "STACK_GLOBAL": lambda _: self._global(self.stack.pop(-2), self.stack.pop()),
            "REDUCE": lambda _: self._call(self.stack.pop(-2), self.stack.pop()),
            "NEWOBJ": lambda _: self._call(self.stack.pop(-2), self.stack.pop()),
            "NEWOBJ_EX": lambda _: self._new_with_keywords(),
            "INST": lambda name: self._call(Global(name.replace(" ", ".")), tuple(self._marked())),
            "OBJ": lambda _: self._object(),
            "BUILD": lambda _: self._build(self.stack.pop()),
            "PERSID": self._persistent_id,
            "BINPERSID": lambda _: self._persistent_id(self.stack.pop()),
        }

    def step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in _EMPTY:
            self._push(_EMPTY[name]())
        elif name in _FIXED_TUPLES:
            count = _FIXED_TUPLES[name]
            if len(self.stack) < count:
                raise PickleError("a tuple of more than there is")
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in _MEMO_WRITES:
            self._memo[argument] = self.stack[-1]
        elif name in _MEMO_READS:
            self._push(self._memo[argument])
        elif name in self._steps:
            self._steps[name](argument)
        elif name.startswith("EXT") or name in ("NEXT_BUFFER", "READONLY_BUFFER"):
            raise PickleError(f"opcode {name} refers to something outside of the file")
        else:  # numbers, strings and bytes: pickletools has decoded them
            self._push(argument)

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self._below_marks.pop()

    def _mark(self, _: Any) -> None:
        self._below_marks.append(self.stack)
        self.stack = []

    def _marked(self) -> list[Any]:
        values = self.stack
        self.stack = self._below_marks.pop()
        return values

    def _discard_marked(self) -> None:
        self._marked()

    def _dict(self) -> None:
        values = self._marked()
        self._push({})
        self._set_items(values)

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

    def _global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("a global whose name is no text")
        self._push(Global(f"{module}.{name}"))

    def _call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise PickleError("a call whose arguments are no tuple")
        if not isinstance(function, Global):
            self._push(Record("call", (function, args)))
        elif function.name in self._builders:
            self._push(self._builders[function.name](*args))
        else:
            self._push(Record(function.name, args))

    def _new_with_keywords(self) -> None:
        keywords, args, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(kind, args)
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = keywords

    def _object(self) -> None:
        kind, *args = self._marked()
        self._call(kind, tuple(args))

    def _build(self, state: Any) -> None:
        """State of a `Record` is kept; attributes of a dictionary (a state dict's `_metadata`) are not."""
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state

    def _persistent_id(self, value: Any) -> None:
        if self._persistent is None:
            raise PickleError("a persistent id where there is none to resolve it")
        self._push(self._persistent(value))
