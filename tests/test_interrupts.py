"""Signals while a kernel runs: what their handlers raise ends the call, soon, and the next call is as any other."""

import os
import signal
import threading
import time

import pytest
import torch

from mpcgen.calls import kernels

SOON = 0.2 + 0.3  # what is promised, and what a machine with other work may take besides
LONG = {"tol": 1e-300, "max_iterations": 10_000_000, "on_unconverged": "ignore"}
MANY = 300_000
"""Cartpoles that LONG takes many seconds for."""


class AlarmError(Exception):
    """What a handler raises."""


@pytest.fixture
def alarm():
    """A function that has this process signalled after some seconds, handled as told; the old handler comes back."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(seconds, handler):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def raise_alarm(number, frame):
    raise AlarmError


@pytest.mark.parametrize("method", ["ddp", "interior_point"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("batch", "horizon", "threads"), [(1, 200_000, 1), (MANY, 24, 1), (MANY, 24, 4)])
def test_a_handler_that_raises_ends_a_long_solve(cartpole, alarm, batch, horizon, threads, dtype, method):
    x0 = cartpole.starts(batch, 0).to(dtype)
    quick = cartpole.mpc(on_unconverged="ignore", threads=threads)
    expected = quick(x0[:100]).u
    start = time.perf_counter()
    alarm(0.3, raise_alarm)
    with pytest.raises(AlarmError):
        cartpole.mpc(threads=threads, method=method, **LONG)(x0, horizon=horizon)
    assert 0.3 <= time.perf_counter() - start < 0.3 + SOON
    assert torch.equal(quick(x0[:100]).u, expected)


def test_ctrl_c_ends_a_long_solve(cartpole):
    # The handler is the interpreter's own, and the signal comes from another thread, as a notebook's may.
    x0 = cartpole.starts(MANY, 0)
    sent = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    sent.start()
    with pytest.raises(KeyboardInterrupt):
        cartpole.mpc(**LONG)(x0)
    sent.join()


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_handler_that_raises_ends_a_long_differentiation(pendulum, alarm, mode):
    x0 = torch.zeros(1, 3, dtype=torch.float64)
    x0[:, 0] = 1
    mpc = pendulum.mpc(threads=1, on_unconverged="ignore")
    count = 3_000_000
    solution = mpc(x0, horizon=2)
    x, u, status = (t.expand(count, *t.shape[1:]) for t in (solution.x, solution.u, solution.status))
    parameters = tuple(p[:1] for p in solution.origin.flattened(status[:1].shape))
    d = torch.ones(count, *x.shape[1:], dtype=torch.float64)
    arguments = (mpc.controller, mpc.options, x, u, status.contiguous(), parameters)
    alarm(0.3, raise_alarm)
    start = time.perf_counter()
    with pytest.raises(AlarmError):
        while time.perf_counter() - start < 20:
            if mode == "reverse":
                kernels.differentiate(*arguments, (d, None, None))
            else:
                kernels.tangent(*arguments, d[:, 0].contiguous(), (None,) * len(parameters))


def test_a_handler_that_returns_lets_the_solve_go_on_and_may_solve_itself(cartpole, alarm):
    x0 = cartpole.starts(2048, 0)
    options = {"tol": 1e-300, "max_iterations": 400, "on_unconverged": "ignore"}
    mpc, seen = cartpole.mpc(**options), []
    expected = mpc(x0).u

    def handler(number, frame):
        seen.append(cartpole.mpc(on_unconverged="ignore")(x0[:100]).u)

    alarm(0.15, handler)
    start = time.perf_counter()
    while not seen and time.perf_counter() - start < 30:
        assert torch.equal(mpc(x0).u, expected)
    assert torch.equal(seen[0], cartpole.mpc(on_unconverged="ignore")(x0[:100]).u)


def test_a_solve_in_another_thread_leaves_signals_to_the_main_one(cartpole, alarm):
    x0 = cartpole.starts(512, 0)
    mpc = cartpole.mpc(tol=1e-300, max_iterations=3000, on_unconverged="ignore")
    expected, found = mpc(x0).u, []
    other = threading.Thread(target=lambda: found.append(mpc(x0).u))
    alarm(0.1, raise_alarm)
    with pytest.raises(AlarmError):
        other.start()
        time.sleep(60)
    other.join()
    assert torch.equal(found[0], expected)


def test_a_wakeup_descriptor_stays_the_programs(cartpole, alarm):
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        alarm(0.2, raise_alarm)
        with pytest.raises(AlarmError):
            cartpole.mpc(**LONG)(cartpole.starts(MANY, 0))
        assert signal.set_wakeup_fd(before) == write
        assert os.read(read, 8) == bytes([signal.SIGALRM])
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
