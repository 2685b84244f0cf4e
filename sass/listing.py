"""Reads what `cuobjdump -sass` prints."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.M)
# Address, guard, opcode, operands. What newer disassemblers print behind the operands (scoreboards,
# such as &wr=0x0, and stalls, such as ?trans1) is of no interest here.
_INSTRUCTION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;&?]*)[^;]*;", re.M
)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction; `guard` is the predicate it depends on, such as "@!P0"."""

    address: int
    guard: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without its modifiers: "LDG" of "LDG.E.128"."""
        return self.opcode.partition(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch leads."""
        match = _TARGET.search(self.operands) if self.name == "BRA" else None
        return int(match[1], 16) if match else None

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction can follow: not after a call, which returns elsewhere."""
        if self.name in ("BRA", "EXIT"):
            # The condition stands in front or, for branches, in an operand before the target.
            return bool(self.guard) or "," in self.operands
        return self.name not in ("CALL", "RET")

    @property
    def bits(self) -> int:
        """The width of a load or store."""
        for modifier in self.opcode.split(".")[1:]:
            width = modifier.lstrip("US")
            if width.isdigit():
                return int(width)
        return 32


def parse(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each function, by its mangled name."""
    _, *parts = _FUNCTION.split(text)
    return {
        name: [
            Instruction(int(address, 16), guard.strip(), opcode, operands.strip())
            for address, guard, opcode, operands in _INSTRUCTION.findall(body)
        ]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
