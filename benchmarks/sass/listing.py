"""Reads what `cuobjdump -sass` prints: finds what a thread of a full block executes, and counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx  # type: ignore[import-untyped]  # a dependency of torch

_FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.M)
# Address, guard, opcode, operands. What newer disassemblers print behind the operands (scoreboards,
# such as &wr=0x0, and stalls, such as ?trans1) is of no interest here.
_INSTRUCTION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;&?]*)[^;]*;", re.M
)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
_LOADS, _STORES, _LOCAL = ("LDG", "LD"), ("STG", "ST"), ("LDL", "STL")
_MATHS = ("MUFU", "FFMA", "FFMA2", "FMUL", "FMUL2", "DFMA", "DMUL")
WIDE = 128  # bits


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
        widths = (modifier.lstrip("US") for modifier in self.opcode.split(".")[1:])
        return next((int(width) for width in widths if width.isdigit()), 32)


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


def analyse(
    kernel: Sequence[Instruction],
    item_bits: int,
    inputs: int,
    store_bits: int = WIDE,
    one_path: bool = False,
) -> dict[str, Any]:
    """Finds the vector body of a kernel, what a thread of a full block executes from entry to exit,
    and counts; the kernel reads so many tensors, with elements of `item_bits`.

    The body leads through stores of `store_bits` or more, wherever the compiler put those. Before
    its first load it has fewer conditions than the path of the last block, which asks for each pack
    whether it is whole. Calls are left out: library functions make them for rare values only.

    With `one_path`, for the kernels of norms, the shortest path is all that counts: each loop once,
    and round what few threads do. No branch of it is a check. Of loads and stores all wide ones of
    the kernel count: the others move the numbers of a row.

    Returns:
        Columns of a file of results. Instructions and MUFU (special functions: exponential,
        reciprocal, ...) are for each element: the least on the shortest path, the most on all paths
        together, as in a warp whose threads take every branch.

    Raises:
        ValueError: there is no such store.
    """
    graph = _graph(kernel)
    shortest = _through_last_store(graph, kernel[0], store_bits)
    first_load = 0 if one_path else _first(shortest, _LOADS)
    head, rest = shortest[:first_load], shortest[first_load:]
    if not one_path:
        rest = list(nx.single_source_shortest_path(graph, rest[0]))  # in order of distance
    every = head + rest

    def bits(names: Sequence[str], steps: Sequence[Instruction]) -> list[int]:
        least = WIDE if one_path else 0
        return [step.bits for step in steps if step.name in names and step.bits >= least]

    accesses = kernel if one_path else every
    loads, stores = bits(_LOADS, accesses), bits(_STORES, accesses)
    elements = sum(loads) // (item_bits * inputs)
    return {
        "elements": elements,
        "checks": _count(head, "BRA"),  # is this block full?
        "branches": _count(rest, "BRA"),
        "local_accesses": _count(kernel, *_LOCAL),
        "late_loads": len(bits(_LOADS, every[_first(every, _MATHS) :])),  # they wait for the maths
        "stored_elements": sum(stores) // item_bits,
        "access_bits": " ".join(map(str, sorted({*loads, *stores}))),
        "instructions_least": len(shortest) / elements,
        "instructions_most": len(every) / elements,
        "mufu_least": _count(shortest, "MUFU") / elements,
        "mufu_most": _count(every, "MUFU") / elements,
    }


def _graph(kernel: Sequence[Instruction]) -> nx.DiGraph:
    by_address = {step.address: step for step in kernel}
    graph = nx.DiGraph()
    for step, following in zip(kernel, [*kernel[1:], None], strict=True):
        graph.add_node(step)
        nexts = [following] if step.falls_through else []
        nexts.append(by_address.get(step.target or -1))
        graph.add_edges_from((step, after) for after in nexts if after)
    return graph


def _through_last_store(graph: nx.DiGraph, entry: Instruction, bits: int) -> list[Instruction]:
    paths = nx.single_source_shortest_path(graph, entry)
    to_store = [p for s, p in paths.items() if s.name in _STORES and s.bits >= bits]
    if not to_store:
        raise ValueError(f"no store of {bits} bits that a thread reaches without a call")
    to_last_store: list[Instruction] = min(to_store, key=lambda p: (_conditions(p), -len(p)))
    onwards = nx.single_source_shortest_path(graph, to_last_store[-1])
    to_exit = min((path for step, path in onwards.items() if step.name == "EXIT"), key=len)
    return to_last_store + list(to_exit[1:])


def _conditions(path: Sequence[Instruction]) -> int:
    """Conditions up to the first load."""
    head = path[: _first(path, _LOADS) + 1]
    return sum(step.name == "BRA" or bool(step.guard) for step in head)


def _first(steps: Sequence[Instruction], names: Sequence[str]) -> int:
    """The place of the first instruction of these names, else the end."""
    return next((place for place, step in enumerate(steps) if step.name in names), len(steps))


def _count(steps: Sequence[Instruction], *names: str) -> int:
    return sum(step.name in names for step in steps)
