"""Finds what a thread of a full block executes, and counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sass.listing import Instruction

_LOADS = ("LDG", "LD")
_STORES = ("STG", "ST")
_LOCAL = ("LDL", "STL")
_FP64 = ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX")
_WIDE = 128


@dataclass(frozen=True)
class Counts:
    """Executed instructions, per thread."""

    instructions: int
    mufu: int  # special functions: exponential, reciprocal, ...
    fp64: int  # those of the double precision units


@dataclass(frozen=True)
class Body:
    """The vector body: what a thread of a full block executes, from entry to exit.

    Without branches `least` and `most` are the same.
    """

    least: Counts  # on the shortest way
    most: Counts  # on all ways together, as in a warp whose threads take every branch
    load_bits: tuple[int, ...]  # width of each global load
    store_bits: tuple[int, ...]
    checks: int  # branches before the first load: is this block full?
    branches: int  # branches after it
    local: int  # accesses to local memory, anywhere in the kernel


def analyse(kernel: Sequence[Instruction]) -> Body:
    """Finds the vector body of a kernel and counts.

    Only a full block executes wide stores, so it takes the ways that lead through them, wherever
    the compiler put those. Calls are left out: library functions make them for rare values only.
    """
    shortest = _shortest(kernel)
    before_load = next(i for i, place in enumerate(shortest) if kernel[place].name in _LOADS)
    head = [kernel[place] for place in shortest[:before_load]]
    rest = [kernel[place] for place in _ways(kernel, shortest[before_load])]
    return Body(
        least=_count([kernel[place] for place in shortest]),
        most=_count(head + rest),
        load_bits=tuple(step.bits for step in rest if step.name in _LOADS),
        store_bits=tuple(step.bits for step in rest if step.name in _STORES),
        checks=sum(step.name == "BRA" for step in head),
        branches=sum(step.name == "BRA" for step in rest),
        local=sum(step.name in _LOCAL for step in kernel),
    )


def _shortest(kernel: Sequence[Instruction]) -> list[int]:
    """The shortest way from the entry through the last wide store to the exit, as indices."""
    ways = _ways(kernel, start=0)
    to_store = [
        way
        for place, way in ways.items()
        if kernel[place].name in _STORES and kernel[place].bits >= _WIDE
    ]
    if not to_store:
        raise ValueError(f"no store of {_WIDE} bits that a thread reaches without a call")
    to_last_store = max(to_store, key=len)
    onwards = _ways(kernel, start=to_last_store[-1])
    to_exit = min((way for place, way in onwards.items() if kernel[place].name == "EXIT"), key=len)
    return to_last_store + to_exit[1:]


def _ways(kernel: Sequence[Instruction], start: int) -> dict[int, list[int]]:
    """The shortest way from `start` to each instruction that it leads to, breadth first."""
    place_of = {step.address: place for place, step in enumerate(kernel)}
    ways = {start: [start]}
    front = [start]
    while front:
        reached = []
        for here in front:
            step = kernel[here]
            following = [here + 1] if step.falls_through and here + 1 < len(kernel) else []
            if step.target in place_of:
                following.append(place_of[step.target])
            for place in following:
                if place not in ways:
                    ways[place] = [*ways[here], place]
                    reached.append(place)
        front = reached
    return ways


def _count(steps: Sequence[Instruction]) -> Counts:
    return Counts(
        instructions=len(steps),
        mufu=sum(step.name == "MUFU" for step in steps),
        fp64=sum(step.name in _FP64 for step in steps),
    )
