"""mpcgen: compile symbolic MPC problems to differentiable solvers."""
