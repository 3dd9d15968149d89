"""What a pickle of ``torch.save`` asks for, found by reading it without doing anything it says.

``weights_only=True`` keeps foreign functions out, but not foreign numbers: with the few functions that torch allows, a
file could ask for any amount of memory, or for values that lie beyond what it holds. So the pickle is followed here
first, on stand-ins: only what ``torch.save`` writes for plain tensors and values passes, no tensor may be larger than
its storage, and no storage larger than what the file holds of it.
"""

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

LIMIT_BYTES = 4 * 2**20  # of the pickle alone, without the numbers in tensors; a thousand tensors take 0.2 million
LIMIT_STEPS = 1_000_000
LIMIT_DEPTH = 32  # of containers in containers
LIMIT_VALUES = 1_000_000  # counting a value as often as it is met by somebody who walks through everything

ITEM_BYTES = {
    **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1},
    **{"ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
}
ORDERED, COUNTER, SIZE = "collections.OrderedDict", "collections.Counter", "torch.Size"
TENSOR, TENSOR_V2 = "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
NAMES = {ORDERED, COUNTER, SIZE, TENSOR, TENSOR_V2, PARAMETER, *(f"torch.{name}" for name in ITEM_BYTES)}
DICTS = ("dict", ORDERED, COUNTER)
BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
Sizes = Mapping[str, int]


class Name(NamedTuple):
    """A function or class that the pickle names, one of `NAMES`."""

    path: str


class Storage(NamedTuple):
    """Numbers that the file holds beside the pickle."""

    key: str
    length: int
    num_bytes: int


class Node:
    """What stands for a container or a tensor."""

    __slots__ = ("closed", "depth", "items", "kind", "num_values")

    def __init__(self, kind: str, items: list[Any]) -> None:
        self.kind = kind
        self.items: list[Any] = []
        self.depth, self.num_values, self.closed = 1, 1, False
        self.add(items)

    def add(self, items: list[Any]) -> None:
        """Put values in; a container that is in another one is finished, so that there are no circles."""
        for item in items:
            if self.closed or item is self:
                raise ValueError("a container that holds itself")
            if isinstance(item, Node):
                item.closed = True
                self.depth = max(self.depth, item.depth + 1)
                self.num_values += item.num_values
            else:
                self.num_values += 1
            self.items.append(item)
        if self.depth > LIMIT_DEPTH or self.num_values > LIMIT_VALUES:
            raise ValueError("containers in containers without end")


class Found(NamedTuple):
    """What a pickle holds: stand-ins for the value, and the storages of its tensors."""

    value: Any
    storages: dict[str, Storage]


def vet(pickled: io.BytesIO) -> Found:
    """Follow one pickle up to its end."""
    reader = _Reader()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pickletools undoes escapes, and Python warns of some
            for step, (opcode, argument) in enumerate(_operations(pickled)):
                if step >= LIMIT_STEPS:
                    raise ValueError(f"more than {LIMIT_STEPS:,} values beside its tensors")
                reader.do(opcode, argument)
        return Found(reader.stack.pop(), reader.storages)
    except (LookupError, TypeError, AttributeError) as error:  # too few values, or of other kinds than are due
        raise ValueError("a pickle that makes no sense") from error


def _operations(pickled: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """Opcode and argument up to the end; a foreign opcode is refused before its argument, which may be anything."""
    while (code := pickled.read(1)) != pickle.STOP:
        if not code:
            raise ValueError("it ends too soon")
        opcode = BY_CODE[code]
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f"the pickle opcode {opcode.name}")
        yield opcode.name, None if opcode.arg is None else opcode.arg.reader(pickled)


class _Reader:
    """A stack machine of the opcodes that ``torch.save`` writes; it builds stand-ins."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def do(self, opcode: str, argument: Any) -> None:
        if opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in VALUES:
            self.stack.append(argument)
        elif opcode in EMPTY:
            self.stack.append(Node(EMPTY[opcode], []))
        elif opcode in TUPLES:
            count = TUPLES[opcode]
            items = self.marked() if count is None else [self.stack.pop() for _ in range(count)][::-1]
            self.stack.append(Node("tuple", items))
        else:
            ACTIONS[opcode](self, argument)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def protocol(self, number: int) -> None:
        if number != 2:
            raise pickle.UnpicklingError(f"pickle protocol {number}")

    def name(self, words: str) -> None:
        path = words.replace(" ", ".")
        if path not in NAMES:
            raise pickle.UnpicklingError(path)
        self.stack.append(Name(path))

    def extend(self, items: list[Any]) -> None:
        _kind(self.stack[-1], "list").add(items)

    def update(self, items: list[Any]) -> None:
        _check_keys(items)
        _kind(self.stack[-1], *DICTS).add(items)

    def build(self, _: None) -> None:
        """Attributes of a dict: ``state_dict()`` notes versions of modules in one."""
        state = _kind(self.stack.pop(), "dict")
        if state.items[::2] != ["_metadata"]:
            raise pickle.UnpicklingError("an object with attributes")
        _kind(self.stack[-1], ORDERED).add(state.items[1::2])

    def call(self, _: None) -> None:
        arguments, function = _kind(self.stack.pop(), "tuple").items, self.stack.pop()
        path = function.path if isinstance(function, Name) else ""
        if path in (TENSOR, TENSOR_V2):
            self.stack.append(_tensor(*arguments))
        elif path == PARAMETER:
            data, _, hooks = arguments
            _check_hooks(hooks)
            self.stack.append(_kind(data, "tensor"))
        elif path in (ORDERED, COUNTER, SIZE) and len(arguments) <= 1:
            self.stack.append(Node(path, _content(path, arguments)))
        else:
            raise pickle.UnpicklingError(f"a call of {path or 'no function'}")

    def storage(self, _: None) -> None:
        word, kind, key, location, length, *view = _kind(self.stack.pop(), "tuple").items
        if word != "storage" or not isinstance(kind, Name) or view not in ([], [None]):
            raise pickle.UnpicklingError("a reference to something outside of the file")
        if not isinstance(key, str) or not isinstance(location, str) or not _is_count(length):
            raise ValueError("a storage without name or length")
        new = Storage(key, length, length * ITEM_BYTES[kind.path.removeprefix("torch.")])
        if self.storages.setdefault(key, new) != new:
            raise ValueError("a storage with two lengths")
        self.stack.append(new)


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
EMPTY = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict"}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
ACTIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": _Reader.protocol,
    "GLOBAL": _Reader.name,
    "MARK": _Reader.mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Reader.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Reader.get),
    "APPEND": lambda reader, _: reader.extend([reader.stack.pop()]),
    "APPENDS": lambda reader, _: reader.extend(reader.marked()),
    "SETITEM": lambda reader, _: reader.update([reader.stack.pop(), reader.stack.pop()][::-1]),
    "SETITEMS": lambda reader, _: reader.update(reader.marked()),
    "BUILD": _Reader.build,
    "REDUCE": _Reader.call,
    "BINPERSID": _Reader.storage,
}
OPCODES = {*CONSTANTS, *VALUES, *EMPTY, *TUPLES, *ACTIONS}


def _kind(value: Any, *kinds: str) -> Node:
    if not isinstance(value, Node) or value.kind not in kinds:
        raise ValueError(f"no {kinds[0]} where one is due")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _check_keys(items: list[Any]) -> None:
    """Words and small numbers, whose hashes nobody can make collide."""
    if len(items) % 2 or not all(isinstance(key, str) or (type(key) is int and abs(key) < 2**31) for key in items[::2]):
        raise ValueError("a dict whose keys are no words or numbers")


def _content(path: str, arguments: list[Any]) -> list[Any]:
    """Items of a container that is made by a call: from nothing, a dict, a tuple, or (Python 2) a list of pairs."""
    if not arguments:
        return []
    if path == ORDERED:
        pairs = [_kind(pair, "list", "tuple").items for pair in _kind(arguments[0], "list").items]
        items = [item for pair in pairs for item in pair]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("a dict that is not made of pairs")
    else:
        items = _kind(arguments[0], "tuple" if path == SIZE else "dict").items
    if path != SIZE:
        _check_keys(items)
    return items


def _check_hooks(hooks: Any) -> None:
    if _kind(hooks, ORDERED).items:
        raise pickle.UnpicklingError("a tensor with hooks")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Node:
    """A tensor that is no larger than its storage and lies within it."""
    if rest:
        requires_grad, hooks = rest
        if type(requires_grad) is not bool:
            raise ValueError("a tensor that is neither trained nor not")
        _check_hooks(hooks)
    lengths, steps = (_kind(one, "tuple", SIZE).items for one in (size, stride))
    if not isinstance(storage, Storage) or not all(map(_is_count, (offset, *lengths, *steps))):
        raise ValueError("a tensor without shape or numbers")
    last = offset + sum((length - 1) * step for length, step in zip(lengths, steps, strict=True))
    if math.prod(lengths) > storage.length or (0 not in lengths and last >= storage.length):
        raise ValueError("a tensor that is larger than its storage")
    return Node("tensor", [])
