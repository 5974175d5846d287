"""Signals while a kernel runs: what their handlers raise ends the call, soon, and the next call is as any other."""

import contextlib
import os
import signal
import threading
import time

import pytest
import torch

from examples import cstr
from mpcgen.calls import kernels
from tests.controllers import compiled

SOON = 0.2
"""How many seconds after a signal a call has ended, as promised: CPU seconds, which other programs leave alone."""
LONG = {"tol": 1e-300, "max_iterations": 10_000_000, "on_unconverged": "ignore"}
MANY, STAGES, PARTED = 300_000, 200_000, 20_000
"""Cartpoles, stages of one, and of a reactor in parts, that LONG takes half a second for, or longer."""


@pytest.fixture(autouse=True)
def compiled_before(cartpole, pendulum):
    """All that is called here is compiled before a signal comes, which would end the compiler."""
    function, verbs = cartpole.module.CONTROLLER.library.function, ("solve", "interior_point")
    for variant in ("f64_batch", "f64_single", "f32_batch", "f32_single"):
        for verb in verbs:
            function(verb, variant)
    pendulum.module.CONTROLLER.library.function("solve", "f64_single")
    pendulum.module.CONTROLLER.library.function("differentiate", "f64_batch")


class AlarmError(Exception):
    """What a handler raises."""


@contextlib.contextmanager
def alarm(seconds, handler):
    """Have this process signalled after some seconds, handled as told; not later than the block's end."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def raise_alarm(number, frame):
    raise AlarmError


def test_a_handler_that_raises_ends_steps_that_are_gone_through_in_parts():
    """Newton's method solves no step from there, held: a pass, with all parts of all steps, takes a second."""
    module, x0 = compiled(cstr.problem), torch.tensor([0.8987, 355.5833], dtype=torch.float64).expand(2, 2)
    module.MPC(method="interior_point", max_iterations=1, on_unconverged="ignore")(x0)  # is compiled
    mpc = module.MPC(method="interior_point", threads=1, **LONG)
    worked = time.process_time()
    with alarm(0.1, raise_alarm), pytest.raises(AlarmError):
        mpc(x0, horizon=PARTED)
    assert time.process_time() - worked < 0.1 + SOON


def test_a_handler_that_raises_ends_a_long_closed_loop(pendulum):
    x0, mpc = pendulum.starts(64, 0), pendulum.mpc(threads=1)
    mpc.closed_loop(x0, 2)
    worked = time.process_time()
    with alarm(0.1, raise_alarm), pytest.raises(AlarmError):
        mpc.closed_loop(x0, 20_000)
    assert time.process_time() - worked < 0.1 + SOON
    assert mpc.closed_loop(x0, 2).x.isfinite().all()


@pytest.mark.parametrize("method", ["ddp", "interior_point"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("batch", "horizon", "threads"), [(1, STAGES, 1), (MANY, 24, 1), (MANY, 24, 4)])
def test_a_handler_that_raises_ends_a_long_solve(cartpole, batch, horizon, threads, dtype, method):
    x0 = cartpole.starts(batch, 0).to(dtype)
    quick = cartpole.mpc(on_unconverged="ignore", threads=threads)
    expected = quick(x0[:100]).u
    slow = cartpole.mpc(threads=threads, method=method, **LONG)
    start, worked = time.perf_counter(), time.process_time()
    with pytest.raises(AlarmError), alarm(0.05, raise_alarm):
        slow(x0, horizon=horizon)
    assert time.perf_counter() - start >= 0.05
    assert time.process_time() - worked < threads * (0.05 + SOON)
    assert torch.equal(quick(x0[:100]).u, expected)


def test_ctrl_c_ends_a_long_solve(cartpole):
    # The handler is the interpreter's own, and the signal comes from another thread, as a notebook's may.
    x0 = cartpole.starts(MANY, 0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    sent = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    sent.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            cartpole.mpc(**LONG)(x0)
        sent.join()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_handler_that_raises_ends_a_long_differentiation(pendulum, mode):
    x0 = torch.zeros(1, 3, dtype=torch.float64)
    x0[:, 0] = 1
    mpc = pendulum.mpc(threads=1, on_unconverged="ignore")
    count = 3_000_000
    solution = mpc(x0, horizon=2)
    x, u, status = (t.expand(count, *t.shape[1:]) for t in (solution.x, solution.u, solution.status))
    parameters = tuple(p[:1] for p in solution.origin.flattened(status[:1].shape))
    d = torch.ones(count, *x.shape[1:], dtype=torch.float64)
    arguments = (mpc.controller, mpc.options, x, u, status.contiguous(), parameters)
    start = time.perf_counter()
    with pytest.raises(AlarmError), alarm(0.3, raise_alarm):
        while time.perf_counter() - start < 20:
            if mode == "reverse":
                kernels.differentiate(*arguments, (d, None, None))
            else:
                kernels.tangent(*arguments, d[:, 0].contiguous(), (None,) * len(parameters))


def test_a_handler_that_returns_lets_the_solve_go_on_and_may_solve_itself(cartpole):
    x0 = cartpole.starts(2048, 0)
    options = {"tol": 1e-300, "max_iterations": 400, "on_unconverged": "ignore"}
    mpc, seen = cartpole.mpc(**options), []
    expected = mpc(x0).u

    def handler(number, frame):
        seen.append(cartpole.mpc(on_unconverged="ignore")(x0[:100]).u)

    start = time.perf_counter()
    with alarm(0.15, handler):
        while not seen and time.perf_counter() - start < 30:
            assert torch.equal(mpc(x0).u, expected)
    assert torch.equal(seen[0], cartpole.mpc(on_unconverged="ignore")(x0[:100]).u)


def test_a_solve_in_another_thread_leaves_signals_to_the_main_one(cartpole):
    x0 = cartpole.starts(512, 0)
    mpc = cartpole.mpc(tol=1e-300, max_iterations=3000, on_unconverged="ignore")
    expected, found = mpc(x0).u, []
    other = threading.Thread(target=lambda: found.append(mpc(x0).u))
    with pytest.raises(AlarmError), alarm(0.1, raise_alarm):
        other.start()
        time.sleep(60)
    other.join()
    assert torch.equal(found[0], expected)


def test_a_wakeup_descriptor_stays_the_programs(cartpole):
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        with pytest.raises(AlarmError), alarm(0.1, raise_alarm):
            cartpole.mpc(**LONG)(cartpole.starts(MANY, 0))
        assert signal.set_wakeup_fd(before) == write
        assert os.read(read, 8) == bytes([signal.SIGALRM])
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
