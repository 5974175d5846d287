"""The reinforcement learning example: its environment, its advantages, and what its actors learn from."""

import numpy as np
import pytest
import torch

from examples.reinforcement_learning import CRASH, STEPS, WALL, Agent, Runner, Settings, Track, train


@pytest.fixture
def track():
    track = Track(3)
    track.reset(seed=0)
    return track


def test_a_cart_that_touches_a_wall_ends_there_and_begins_anew(track):
    track.state[:] = [[0.99, 2.0, 0.0], [0.0, 0.0, 0.0], [-0.99, -2.0, 0.0]]
    observation, reward, crashed, ended, info = track.step(np.zeros((3, 1)))
    assert crashed.tolist() == [True, False, True] and not ended.any()
    assert (reward[crashed] < CRASH).all() and reward[1] == 0
    assert (abs(info["final_obs"][crashed, 0]) >= WALL).all()
    assert (abs(observation[:, 0]) < WALL).all() and track.observation_space.contains(observation)


def test_an_episode_is_cut_off_after_its_steps_and_that_is_no_crash(track):
    track.state[:] = 0
    for step in range(STEPS):
        force = 0.9 - track.state[:, 1:2] - track.state[:, :1]  # against the wind
        _, _, crashed, ended, _ = track.step(force)
        assert not crashed.any() and ended.all() == (step == STEPS - 1)


def test_forces_beyond_the_bounds_are_cut_off(track):
    start = track.state.copy()
    most = track.step(np.full((3, 1), 1e6))[4]["final_obs"]
    track.reset(seed=0)
    assert np.array_equal(track.state, start)
    assert np.array_equal(track.step(np.full((3, 1), 3.0))[4]["final_obs"], most)


def test_advantages_are_returns_beyond_the_critics_where_traces_do_not_fade():
    settings = Settings(envs=1, discount=0.5, trace=1.0)
    reward = torch.zeros(STEPS, 1, dtype=torch.float64)
    reward[1], reward[3] = 8.0, 100.0
    done = torch.zeros(STEPS, 1, dtype=torch.bool)
    done[2] = True  # what follows belongs to another episode
    value = torch.full((STEPS, 1), 3.0, dtype=torch.float64)
    advantage = Runner(settings, 0)._advantages(value, torch.zeros(1), reward, done)
    assert advantage[:4, 0].tolist() == [0.5 * 8 - 3, 8 - 3, -3, 100 - 3]


def test_the_controllers_first_force_is_learned_by_model_and_cost():
    agent = Agent("controller")
    observation = torch.tensor([[0.3, 0.1, 0.5], [-0.6, -0.4, -0.9]], dtype=torch.float64)
    mean = agent.actor(observation).mean
    assert mean.shape == (2, 1)
    mean.sum().backward()
    learned = dict(agent.mean.named_parameters())
    assert len(learned) == 4  # mass, drag, wind, weights
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in learned.values())


def test_a_run_logs_every_iteration():
    log = train("network", 0, 2, Settings(envs=4))
    assert log["samples"] == [4 * STEPS, 2 * 4 * STEPS]
    assert all(len(values) == 2 for values in log.values())
