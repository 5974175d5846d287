"""Code generation: schedules, C text, templates. `render_spec` is the whole way from a specification to text."""

from __future__ import annotations

from mpcgen.codegen.rendered import Rendered
from mpcgen.errors import SpecError
from mpcgen.problem.spec import Spec

STAGES = ("spec", "graph", "derived", "schedule", "rendered")
"""The typed values of the pipeline that `inspect` prints."""


def render_spec(spec: Spec, looped: bool = False) -> Rendered:
    """Lower, derive and render a specification; looped: keep the Riccati products apart, however few they are."""
    from mpcgen.codegen.render import render_kernels
    from mpcgen.derivative.kernels import FUSED_LIMIT, derive
    from mpcgen.problem.lowering import lower_spec

    return render_kernels(derive(lower_spec(spec), -1 if looped else FUSED_LIMIT))


def inspect(spec: Spec, stage: str | None = None) -> str:
    """Return the text of one stage of the pipeline, or sizes, sparsity and operation counts of all.

    stage: one of `STAGES`, or None for the overview.
    """
    from mpcgen.codegen.overview import overview, stage_text

    if stage is None:
        return overview(spec)
    if stage not in STAGES:
        raise SpecError(f"unknown stage {stage!r}; the pipeline's stages are {', '.join(STAGES)}")
    return stage_text(spec, stage)


__all__ = ["STAGES", "Rendered", "inspect", "render_spec"]
