"""What nvdisasm writes of a kernel: its instructions, and the loop over time among them."""

import re
from collections import Counter
from typing import NamedTuple

OPCODE = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]*)", re.MULTILINE
)
BRANCH = re.compile(r"(?:(@!?U?P\w+)\s+)?(BRA|EXIT|RET)\b[^`]*(?:`\((\.L\w+)\))?")
# the last two: conversions, and MUFU.RCP64H
FLOAT64 = re.compile(r"D(ADD|FMA|MUL|SETP|MNMX|MMA|SET)\b|.*(\.F64|64H)\b")

WAITS = 3  # SYNCS of a step of a cluster: two looks at an mbarrier, of which it may need more


class Loop(NamedTuple):
    """The loop over time in a kernel: what a warp issues, each branch of it counted as taken, and
    waiting once. The compiler may have made one round of several steps.
    """

    once: Counter  # opcode -> how often, outside the loops within
    within: list[int]  # instructions of each loop within, each counted once

    def a_step(self, barriers: int = 1) -> float:
        """Instructions of a step that has so many barriers, or one mbarrier."""
        all_of_it = self.once.total() + sum(self.within)
        if self.once["BAR"]:
            return all_of_it * barriers / self.once["BAR"]
        return all_of_it * WAITS / self.once["SYNCS"]


class Instruction(NamedTuple):
    opcode: str  # FFMA, without what follows the first full stop
    falls: bool  # the next one may follow
    target: int | None  # place of the one that it may jump to


def listing(sass: str) -> list[Instruction]:
    """The instructions of the kernel in nvdisasm's text, slow paths of divisions among them."""
    texts, labels = [], {}
    for text in map(str.strip, sass.splitlines()):
        if text.startswith(".L_x_"):
            labels[text.rstrip(":")] = len(texts)
        elif found := re.match(r"/\*[0-9a-f]{4,}\*/\s+(.*)", text):
            texts.append(found[1])
    return [parsed(text, labels) for text in texts]


def parsed(text: str, labels: dict[str, int]) -> Instruction:
    opcode = re.sub(r"^@!?U?P\w+\s+", "", text).partition(" ")[0].rstrip(";")
    found = BRANCH.match(text)
    if not found or opcode.startswith("BRA.DIV"):  # which is for warps that have come apart
        return Instruction(opcode.partition(".")[0], True, None)
    conditional = bool(found[1]) or re.search(r"BRA\S* !?U?P\d", text) is not None
    return Instruction(found[2], conditional, labels.get(found[3]))


def preceding(code: list[Instruction]) -> dict[int, list[int]]:
    """place -> the places of the instructions that may come just before it."""
    before: dict[int, list[int]] = {}
    for place, (_, falls, target) in enumerate(code):
        for follower in ([place + 1] if falls else []) + ([target] if target is not None else []):
            before.setdefault(follower, []).append(place)
    return before


def loop_of(before: dict[int, list[int]], header: int, last: int) -> set[int]:
    """The places of the natural loop whose last instruction jumps back to its header."""
    found, todo = {header}, [last]
    while todo:
        if (place := todo.pop()) not in found:
            found.add(place)
            todo += before.get(place, [])
    return found


def time_loop(sass: str) -> Loop | None:
    """The innermost loop with a barrier in it, or that sends to a cluster; None where there is no
    such loop.
    """
    code, loops = listing(sass), {}
    before = preceding(code)
    for place, (_, _, target) in enumerate(code):
        if target is not None and target < place:
            loops.setdefault(target, set()).update(loop_of(before, target, place))
    found = sorted(loops.values(), key=len)
    steps = next((one for one in found if {code[k].opcode for k in one} & {"BAR", "STAS"}), None)
    if steps is None:
        return None
    found = [one for one in found if all(code[k].opcode != "SYNCS" for k in one)]
    within: list[set[int]] = []
    for one in reversed(found):  # of loops within loops the outer
        if one < steps and not any(one <= other for other in within):
            within.append(one)
    once = Counter(code[k].opcode for k in steps.difference(*within))
    return Loop(once, sorted(map(len, within)))
