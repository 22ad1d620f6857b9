"""Reading PTX: the text of one kernel as basic blocks of instructions.

A basic block runs from its first instruction to its last without a jump into it or out of it. An
instruction under a condition that is no branch becomes a branch around it, so that conditions are
known to branches alone.
"""

import re
from typing import NamedTuple

from .findings import PTXError

# NumPy's type of each of PTX's: untyped bits are signed numbers
DTYPES = {
    **{f"s{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"b{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    "f32": "f4",
    "f64": "f8",
    "pred": "?",
}
BRANCH, ENDS, BARRIERS = "bra", ("ret", "exit", "trap"), ("bar", "barrier")
WHOLE_BLOCK = ("bar.sync", "barrier.sync", "barrier.sync.aligned")
WHOLE_CLUSTER = re.compile(
    r"barrier\.cluster\.(arrive(\.release|\.relaxed)?|wait(\.acquire)?)(\.aligned)?"
)
# what brings threads in order, but for the barriers of a block
ORDERING = {"mapa", "mbarrier", "fence", "membar", "atom", "red"}
STRONG = {"relaxed", "acquire", "release", "acq_rel", "volatile"}
BETWEEN_BLOCKS = {"gpu", "sys", "gl", "volatile"}
CLUSTER = re.compile(r"\.reqnctapercluster\s+(\d+)")
LABEL = re.compile(r"([$\w]+):(?!:)\s*")
REGISTER = re.compile(r"%[A-Za-z_]+\d*(?![\w.])")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
DECLARED = re.compile(r"\.reg\s+\.(\w+)\s+(%\w*?[A-Za-z])(?:<\d+>)?\s*;")
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(\S+?)\s*[,)\n]")
BYTES = r"\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d*)\]"
SHARED = re.compile(rf"^\s*((?:\.\w+\s+)*)\.shared\s+{BYTES};", re.MULTILINE)
LOCAL = re.compile(rf"\.local\s+{BYTES};")
CONSTANT = re.compile(rf"\.(?:global|const)\s+{BYTES}\s*=\s*\{{([^}}]*)\}}")


class Instruction(NamedTuple):
    """op and operands of `@guard op operands;`, and the text that a finding shows."""

    op: str  # "ld.global.f32"
    operands: tuple[str, ...]
    guard: str  # the register it depends on, with "!" before it where that must be false; or ""
    text: str

    @property
    def parts(self) -> list[str]:
        return self.op.split(".")

    @property
    def verb(self) -> str:
        return self.parts[0]

    @property
    def type(self) -> str:
        """The last of its types, that of the operands; "" where it has none."""
        return next((part for part in reversed(self.parts) if part in DTYPES), "")

    @property
    def ends_block(self) -> bool:
        return self.verb in (BRANCH, *ENDS, *BARRIERS)

    @property
    def orders(self) -> bool:
        """Brings it threads in order, and is no barrier of a block?"""
        parts = set(self.parts)
        barrier = self.verb in BARRIERS and self.op not in WHOLE_BLOCK
        reaches = parts & {*STRONG, "async", "shared::cluster"}
        return bool(barrier or self.verb in ORDERING or reaches)

    @property
    def meets_grid(self) -> bool:
        """Is it for threads of any block?"""
        atomic = self.verb in ("atom", "red") and not {"cta", "cluster"} & set(self.parts)
        return self.orders and bool(atomic or BETWEEN_BLOCKS & set(self.parts))


class Variable(NamedTuple):
    """Memory that the kernel declares."""

    name: str
    size: int
    align: int
    dynamic: bool = False  # its size is told at the launch
    values: bytes = b""  # of a table


class Text(NamedTuple):
    """What stands in the text of a kernel."""

    parameters: tuple[tuple[str, str], ...]  # (type, name)
    shared: tuple[Variable, ...]
    local: tuple[Variable, ...]
    tables: tuple[Variable, ...]  # constants in global memory
    types: dict[str, str]  # of registers, by name or by what is before its number
    blocks: tuple[tuple[Instruction, ...], ...]
    labels: dict[str, int]  # the number of the block that begins there
    cluster: int  # blocks of a cluster, where the kernel says so; else 0

    @property
    def instructions(self):
        return (it for block in self.blocks for it in block)

    def dtype(self, register: str) -> str:
        """NumPy's type of a register."""
        known = self.types
        return DTYPES[known[register] if register in known else known[register.rstrip(DIGITS)]]

    def parameter(self, name: str) -> int:
        """The place of a parameter among all."""
        return [own for _, own in self.parameters].index(name)


DIGITS = "0123456789"


def read(text: str) -> Text:
    """The one kernel of a text.  PTXError where there are more, or functions that are called."""
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", text), flags=re.DOTALL)
    if len(re.findall(r"\.entry\b", text)) != 1:
        raise PTXError("expected a text with one .entry")
    if called := re.search(r"^\s*\.(?:\w+\s+\.)?func\b[^\n]*", text, re.MULTILINE):
        raise PTXError(f"functions that are called are not executed: {called[0].strip()}")
    head, _, rest = text.partition(".entry")
    signature, _, body = rest.partition("{")
    cluster = CLUSTER.search(signature)
    types = {name: kind for kind, name in DECLARED.findall(body)}
    blocks, labels = split(statements(body, types))
    return Text(
        tuple(PARAMETER.findall(signature + "\n")),
        tuple(shared_variables(text)),
        tuple(Variable(name, int(size), int(align)) for align, name, size in LOCAL.findall(body)),
        tuple(tables(head)),
        types,
        blocks,
        labels,
        int(cluster[1]) if cluster else 0,
    )


def shared_variables(text: str):
    for linkage, align, name, size in SHARED.findall(text):
        yield Variable(name, int(size or 0), int(align), ".extern" in linkage)


def tables(head: str):
    for align, name, size, numbers in CONSTANT.findall(head):
        values = bytes(int(number, 0) for number in numbers.split(","))
        yield Variable(name, int(size or len(values)), int(align), values=values)


def statements(body: str, types: dict[str, str]):
    """Labels (str) and instructions, in their order; `types` gets the registers of inner scopes.

    Inline assembly declares registers of its own between braces: they get names of their own.
    """
    scopes: list[dict[str, str]] = []
    for line in body.splitlines():
        for part in map(str.strip, line.split(";")):
            while label := LABEL.match(part):
                yield label[1]
                part = part[label.end() :]
            if part.startswith("{") and not part.startswith("{%"):
                part = part[1:].strip()
                scopes.append({})
            elif part.startswith("}") and scopes:
                part = part[1:].strip()
                scopes.pop()
            if part.startswith(".reg") and scopes:
                declare(part, scopes[-1], types)
            elif part and part != "}" and not part.startswith("."):
                yield instruction(renamed(part, scopes))


def declare(part: str, scope: dict[str, str], types: dict[str, str]):
    _, kind, *names = re.split(r"[\s,]+", part)
    for name in names:
        scope[name] = f"%inner{len(types)}"
        types[scope[name]] = kind.lstrip(".")


def renamed(part: str, scopes) -> str:
    for scope in scopes:
        for name, here in scope.items():
            part = re.sub(rf"(?<![\w.%$]){re.escape(name)}(?![\w.$:])", here, part)
    return part


def instruction(text: str) -> Instruction:
    found = re.match(r"(?:@(!?%\w+)\s+)?(\S+)(.*)", text, re.DOTALL)
    if found is None:
        raise PTXError(f"not understood: {text}")
    guard, op, rest = found.groups()
    operands = tuple(OPERAND.findall(rest))
    if op.split(".")[0] in BARRIERS and not understood(op, operands):
        raise PTXError(f"a barrier of a warp, a block or a cluster is understood, no other: {text}")
    return Instruction(op, operands, guard or "", " ".join(text.split()))


def understood(op: str, operands: tuple[str, ...]) -> bool:
    """Is it a barrier of all threads of a block or a cluster, or of named lanes of a warp?"""
    of_cluster = WHOLE_CLUSTER.fullmatch(op) and not operands
    of_warp = op == "bar.warp.sync" and len(operands) == 1 and not operands[0].startswith("%")
    return bool((op in WHOLE_BLOCK and operands == ("0",)) or of_cluster or of_warp)


def opposite(guard: str) -> str:
    return guard[1:] if guard.startswith("!") else "!" + guard


def split(statements) -> tuple[tuple[tuple[Instruction, ...], ...], dict[str, int]]:
    """Basic blocks, and where labels are."""
    blocks: list[list[Instruction]] = [[]]
    labels = {}

    def close():
        if blocks[-1]:
            blocks.append([])

    for one in statements:
        if isinstance(one, str):
            close()
            labels[one] = len(blocks) - 1
        elif one.guard and one.verb != BRANCH:
            around = f"+{len(blocks)}"  # no label of the text begins so
            blocks[-1].append(Instruction(BRANCH, (around,), opposite(one.guard), "@ " + one.text))
            close()
            blocks[-1].append(one._replace(guard=""))
            close()
            labels[around] = len(blocks) - 1
        else:
            blocks[-1].append(one)
            if one.ends_block:
                close()
    blocks[-1].append(Instruction("ret", (), "", "end"))
    return tuple(map(tuple, blocks)), labels


def registers_in(operands) -> set[str]:
    """The names of registers in operands, those that the card itself sets among them."""
    return set(REGISTER.findall(" ".join(operands)))
