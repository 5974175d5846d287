"""The one driver: a specification becomes text in steps, and each step is a frozen value that prints itself.

    Spec -> Model -> Kernels -> Economy -> Schedules -> Rendered

Each is made when it is first asked for, and once: what inspects a step reads the value that the next step reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mpcgen.codegen.c_function import reserved_in
from mpcgen.codegen.export import ExportOptions, export_text
from mpcgen.codegen.overview import overview
from mpcgen.codegen.render import render
from mpcgen.codegen.rendered import Rendered
from mpcgen.derivative.kernels import FUSED_LIMIT, Kernels, derive
from mpcgen.errors import SpecError
from mpcgen.ir.constants import with_constants
from mpcgen.ir.model import Model
from mpcgen.ir.schedule import Schedules, schedule
from mpcgen.passes.economy import Economy, economise
from mpcgen.passes.naming import naming_hints
from mpcgen.problem.lowering import lower_spec
from mpcgen.problem.spec import Spec
from mpcgen.stages import contract

STAGES = {
    "spec": "what the user wrote, checked",
    "graph": "next state, costs and bounds on the graph",
    "derived": "the functions that the kernels evaluate",
    "passes": "the same functions, rewritten to compute less",
    "schedule": "the functions as straight-line code",
    "rendered": "the C text",
}
"""The steps that `Compilation.show` and `mpcgen inspect --stage` print."""


@dataclass(frozen=True)
class Compilation:
    """A specification on its way to text.

    fused_limit: most products of F'VF that are unrolled into the stage functions (`FUSED_LIMIT`); -1: none are.
    constants: names of the parameters that are their defaults.
    """

    spec: Spec
    fused_limit: int = FUSED_LIMIT
    constants: tuple[str, ...] = ()

    @cached_property
    def graph(self) -> Model:
        """Lowered from sympy, dynamics integrated."""
        return with_constants(lower_spec(self.spec), self.constants)

    @cached_property
    def derived(self) -> Kernels:
        """One function for each thing that the kernels evaluate."""
        return derive(self.graph, self.fused_limit)

    @cached_property
    def passes(self) -> Economy:
        """The functions after the rewrites of `mpcgen.passes`."""
        return economise(self.derived, naming_hints(self.derived))

    @cached_property
    def schedule(self) -> Schedules:
        """The functions in order, their temporaries named."""
        names, table = self.passes.names, contract(self.graph.constrained)
        return Schedules(tuple(schedule(f, names, reserved_in(table[f.name])) for f in self.passes.functions))

    @cached_property
    def rendered(self) -> Rendered:
        """Header, C source and Python package."""
        return render(self.derived, self.passes, self.schedule)

    def exported(
        self, options: ExportOptions, workspace: int, start: Sequence[float] | None = None
    ) -> dict[str, str]:
        """The files of an exported controller; see `mpcgen.codegen.export.export_text`."""
        constants = [
            (parameter.name, ", ".join(map(repr, parameter.default or ())))
            for parameter in self.spec.parameters
            if parameter.name in self.constants
        ]
        return export_text(self.derived, self.passes, self.schedule, options, workspace, constants, start)

    def show(self, stage: str) -> str:
        """Return the text of one of `STAGES`; SpecError for another name."""
        if stage not in STAGES:
            raise SpecError(f"unknown stage {stage!r}; the pipeline's stages are {', '.join(STAGES)}")
        return self.rendered.c_text if stage == "rendered" else str(getattr(self, stage))


def render_spec(spec: Spec, looped: bool = False) -> Rendered:
    """The text of a specification; looped: with the Riccati products apart, however few they are."""
    return Compilation(spec, -1 if looped else FUSED_LIMIT).rendered


def inspect(spec: Spec, stage: str | None = None) -> str:
    """Return the text of one of `STAGES`, or sizes, sparsity and operation counts of all."""
    steps = Compilation(spec)
    return overview(steps.derived, steps.passes, steps.rendered) if stage is None else steps.show(stage)
