"""Systems as modules: `pendulum.PendulumDx`, `cartpole.CartpoleDx`."""
