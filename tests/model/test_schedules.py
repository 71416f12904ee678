"""Learning-rate schedules: their values, theory piece by piece, and SGD step by step."""

import dataclasses

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import odeae
import odeae.theory.solve
from odeae.model.rules import SGD
from odeae.model.schedules import largest_factor

pytestmark = pytest.mark.sampled

DIM = 60
TIMES = np.array([0.0, 1.0, 2.0, 5.0, 9.0])
NETWORK = odeae.Autoencoder(2)
SPECTRUM = odeae.Spectrum.spiked([1.0, 0.5], DIM)


def problem(schedule, **options):
    return odeae.Problem(SPECTRUM, NETWORK, odeae.SGD(schedule=schedule, **options))


STATE = odeae.random_state(problem(None), 0.5, 0.5)
FORMULAS = {
    "step": (odeae.StepSchedule([2.0, 5.0], [0.5, 0.0]), [1.0, 1.0, 0.5, 0.0, 0.0]),
    "cosine": (
        odeae.CosineSchedule(5.0, 0.2),
        0.2 + 0.4 * (1 + np.cos(np.pi * np.array([0.0, 0.2, 0.4, 1.0, 1.0]))),
    ),
    "power law": (odeae.PowerLawSchedule(0.5, 3.0), (1 + TIMES / 3.0) ** -0.5),
    "function": (SGD(schedule=lambda t: 1.0 / (1.0 + t**2)).schedule, 1.0 / (1.0 + TIMES**2)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values(name):
    schedule, want = FORMULAS[name]
    assert_allclose(jax.vmap(schedule)(jnp.asarray(TIMES)), want, atol=1e-15)


SUBNORMAL = [odeae.CosineSchedule(5e-324, 0.5), odeae.PowerLawSchedule(1.0, 5e-324)]


@pytest.mark.parametrize("schedule", SUBNORMAL)
def test_a_subnormal_time_is_not_divided_by_as_zero(schedule):
    assert schedule(0.0) == 1.0
    assert 0.0 <= schedule(1.0) <= 0.5


@pytest.mark.parametrize("name", FORMULAS)
def test_without_decay_a_schedule_is_another_clock(name):
    """dy/dt = f(t) F(y): the state at t is that of a constant rate at ∫f."""
    schedule, _ = FORMULAS[name]
    grid = np.linspace(0.0, 9.0, 9001)
    grid = np.sort(np.concatenate([grid, [np.nextafter(2.0, 0.0), np.nextafter(5.0, 0.0)]]))
    factor = np.asarray(jax.vmap(schedule)(jnp.asarray(grid)))
    steps = np.diff(grid) * 0.5 * (factor[1:] + factor[:-1])
    clock = np.concatenate([[0.0], np.cumsum(steps)])[np.searchsorted(grid, TIMES)]
    shown, back = np.unique(clock, return_inverse=True)
    # As many times as `TIMES`: one program for all.
    shown = np.append(shown, shown[-1] + np.arange(1.0, 1.0 + len(TIMES) - len(shown)))
    want = odeae.predict(problem(None), STATE, shown, rtol=1e-10).error[back]
    got = odeae.predict(problem(schedule), STATE, TIMES, rtol=1e-10).error
    assert_allclose(got, want, atol=2e-7)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_jump_at_the_last_time(before):
    """One step from the start to a jump at the end left NaN there, with status ok."""
    end = jump = 0.009
    for _ in range(before):
        jump = np.nextafter(jump, 0.0)
    times = np.concatenate([TIMES[:4] * 1e-3, [end]])
    want = odeae.predict(problem(None), STATE, times).error
    two = odeae.StepSchedule([jump, 20.0], [0.5, 0.0])
    got = odeae.predict(problem(two), STATE, times)
    assert got.status == odeae.Status.OK
    assert_allclose(got.error, want, atol=1e-13)
    bend = odeae.CosineSchedule(end, 0.2)
    got = odeae.predict(problem(bend), STATE, times)
    tight = odeae.predict(problem(bend), STATE, times, rtol=1e-10)
    assert_allclose(got.error, tight.error, atol=1e-12)
    table = odeae.sweep(lambda lr: (problem(two, lr=lr), STATE), {"lr": [1.0]}, times)
    assert_allclose(table.error[0], want, atol=1e-13)


def test_decay_carries_no_rate():
    # The rates vanish, the decay stays. (Two jumps, as above: one program.)
    frozen = odeae.StepSchedule([1e-9, 20.0], [0.0, 0.0])
    p = problem(frozen, weight_decay=0.3)
    got = odeae.predict(p, STATE, TIMES, rtol=1e-9)
    shrunk = np.exp(-2 * 0.3 * TIMES)[:, None, None]
    assert_allclose(got.Q1, got.Q1[0] * shrunk, rtol=1e-6)
    runs = odeae.simulate(p, STATE, TIMES, runs=1)
    per_step = (1.0 - 0.3 / DIM) ** (2 * DIM * TIMES)[1:, None, None]
    # the first step is taken at the full rate of t = 0
    assert_allclose(runs.Q1[0, 1:], runs.Q1[0, 1] * per_step / per_step[0], rtol=1e-12)


def test_the_solver_restarts_at_jumps(monkeypatch):
    """Without jump times the controller would search for each jump with rejected steps."""
    schedule = odeae.StepSchedule(np.linspace(0.5, 8.5, 9), np.tile([0.1, 1.0, 0.3], 3))
    p = problem(schedule)

    def reached(max_steps):
        return odeae.predict(p, STATE, TIMES, throw=False, max_steps=max_steps).stop_time

    assert reached(100) == TIMES[-1]
    monkeypatch.setattr(odeae.theory.solve, "jumps_before", lambda schedule, end: None)
    assert reached(101) < TIMES[-1]  # another number, so that it is compiled anew


def test_step_n_of_sgd_is_taken_at_the_rate_of_its_time():
    """Where a jump falls on a step, that step has the new rate; resuming keeps the clock."""
    schedule = odeae.StepSchedule([1.0, 4.0], [0.25, 2.0])
    runs = odeae.simulate(problem(schedule), STATE, TIMES, runs=2)
    now = odeae.simulate(problem(None), STATE, [1.0], runs=2)
    for end, lr in ((4.0, 0.25), (9.0, 2.0)):
        p = problem(None, lr=lr)
        weights = dataclasses.replace(now.weights, about="{}")  # another rate would be refused
        now = odeae.simulate(p, None, [end], weights=weights)
    assert_array_equal(runs.weights.weights.decoder, now.weights.weights.decoder)
    half = odeae.simulate(problem(schedule), STATE, TIMES[:3], runs=2)
    rest = odeae.simulate(problem(schedule), None, TIMES[3:], weights=half.weights)
    assert_array_equal(rest.error, runs.error[:, 3:])


@pytest.mark.slow
def test_rates_of_a_schedule_are_pure_jax():
    def final(exponent):
        schedule = odeae.PowerLawSchedule(exponent)
        return odeae.predict(problem(schedule), STATE, [4.0]).error[0]

    exponents = jnp.array([0.3, 0.8])
    values = jax.vmap(final)(exponents)
    assert_allclose(values, [final(x) for x in (0.3, 0.8)], rtol=1e-6)
    slope = jax.grad(final)(0.5)
    assert_allclose(slope, (final(0.501) - final(0.499)) / 0.002, rtol=1e-4)


def test_a_negative_schedule_is_refused_under_jit():
    """Its values are known although the rate is traced."""

    def final(lr):
        return odeae.predict(problem(lambda t: 1.0 - t, lr=lr), STATE, TIMES).error[-1]

    with pytest.raises(ValueError, match=r"`schedule` must be zero or positive .* at t=1"):
        jax.jit(final)(1.0)


def test_the_largest_factor_sees_jumps():
    assert largest_factor(odeae.StepSchedule([1.0], [7.0]), 2.0) == 7.0
    assert largest_factor(odeae.StepSchedule([1.0, 1.00001], [7.0, 1.0]), 2.0) == 7.0
    assert largest_factor(odeae.StepSchedule([3.0], [7.0]), 2.0) == 1.0
    assert largest_factor(None, 2.0) == 1.0


@pytest.mark.slow
def test_a_pulse_after_a_pause_is_not_passed_over():
    """While the rates vanish the solver's steps grew without bound, and jumped over the pulse."""

    def pulse(t):
        return jnp.where((t >= 50.0) & (t < 52.0), 1.0, 0.0)

    got = odeae.predict(problem(pulse), STATE, [0.0, 1000.0], rtol=1e-8).error[-1]
    want = odeae.predict(problem(None), STATE, [2.0], rtol=1e-8).error[-1]
    assert_allclose(got, want, atol=1e-6)
    pulse.jumps = [50.0, 52.0]
    exact = odeae.predict(problem(pulse), STATE, [0.0, 1e6], rtol=1e-8, max_steps=10**6)
    assert_allclose(exact.error[-1], want, atol=1e-7)
    pulse.jumps = []
    assert (
        odeae.predict(problem(pulse), STATE, [0.0, 1.0]).error[1]
        == odeae.predict(problem(pulse), STATE, [0.0]).error[0]
    )


def test_an_own_function_may_name_its_jumps():
    def halves(t):
        return jnp.where(t < 3.0, 1.0, 0.5)

    halves.jumps = [3.0]
    same = odeae.StepSchedule([3.0, 20.0], [0.5, 0.5])  # two jumps, as above
    want = odeae.predict(problem(same), STATE, TIMES)
    got = odeae.predict(problem(halves), STATE, TIMES)
    assert_allclose(got.error, want.error, rtol=1e-8)
    implicit = odeae.predict(problem(halves), STATE, TIMES, solver=diffrax.Kvaerno5())
    assert_allclose(implicit.error, want.error, atol=1e-5)
