"""The face of mpc.pytorch, the package of the paper's authors, on mpcgen's kernels: `from mpcgen.compat import mpc`.

Its modules are here by their names: `mpc`, `util`, `pnqp`, `lqr_step`, `dynamics`, `env_dx`. docs/compat.md says what
is the same, what is exact here and was not there, and which options have no meaning any more.
"""
