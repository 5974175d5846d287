"""What a row of the contract says: a stage function, and the groups of numbers that it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A group of numbers that a stage function reads or writes.

    ``group`` is its name in the derivation, ``size`` how many numbers there are, in the generated file's sizes.
    ``declaration`` is the C parameter that holds it, alone or as a member of a struct; ``place`` is where it begins.
    ``accumulate``: values are added to what is there.
    """

    group: str
    size: str
    meaning: str
    declaration: str
    place: str
    accumulate: bool = False

    @property
    def argument(self) -> str:
        """Name of the C parameter."""
        return self.declaration.split()[-1].lstrip("*")


@dataclass(frozen=True)
class StageFunction:
    """A function of one stage, or of the last state, that the runtime headers call.

    ``inline``: its text becomes part of its callers'. ``knows_next``: it is evaluated along a rollout only, where
    f(x, u, theta) lies behind the state in memory. In multiple shooting, as with constraints, states meet f at the
    solution only.
    """

    name: str
    purpose: str
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    inline: bool = True
    knows_next: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """The C parameters in order: what is read, then what is written; slots of one struct share theirs."""
        return tuple(dict.fromkeys(slot.declaration for slot in (*self.reads, *self.writes)))

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the C parameters."""
        return tuple(dict.fromkeys(slot.argument for slot in (*self.reads, *self.writes)))

    def read(self, group: str) -> Slot:
        """The slot that a group is read from."""
        return next(slot for slot in self.reads if slot.group == group)

    def written(self, group: str) -> Slot:
        """The slot that a group is written to."""
        return next(slot for slot in self.writes if slot.group == group)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.purpose}"]
        for title, slots in (("reads", self.reads), ("writes", self.writes)):
            for slot in slots:
                lines.append(f"  {title:<6} {slot.place}[{slot.size}]: {slot.meaning}")
        return "\n".join(lines)
