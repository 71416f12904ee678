"""`predict` against an independent integration, known symmetries, and finite differences."""

import dataclasses
import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import reference
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import odeae
import odeae.theory.solve

pytestmark = pytest.mark.sampled

HIDDEN, DIM = 3, 40
TIMES = np.array([0.0, 0.5, 2.0, 6.0, 15.0, 30.0])
# Three spikes, twelve bulk modes on their own, and 25 equal ones, which fall into one bin.
RHO = np.concatenate(
    [DIM * np.array([1.0, 0.6, 0.3]), np.linspace(1.6, 1.05, 12), np.full(25, 0.7)]
)
WEIGHTS = 0.3 * np.random.default_rng(1).standard_normal((2, HIDDEN, DIM))
BIASES = np.array([0.3, -0.4, 0.1])
ACTIVATIONS = ["erf", "relu", "linear"]


def problem(activation="erf", bias=False, lr=1.0, **rates):
    spectrum = odeae.Spectrum.from_eigenvalues(RHO, spikes=3)
    rates = dict.fromkeys(("lr_encoder", "lr_decoder", "lr_bias"), lr) | rates
    return odeae.Problem(
        spectrum, odeae.Autoencoder(HIDDEN, activation, bias=bias), odeae.SGD(**rates)
    )


def start(problem, W=WEIGHTS[0], V=WEIGHTS[1], b=BIASES):
    return odeae.state_from_weights(problem, W, V, b if problem.autoencoder.bias else None)


def spiked(dim=1000, hidden=3, activation="erf", **rates):
    """The paper's Fig. 2: three spikes over an isotropic bulk."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim)
    return odeae.Problem(spectrum, odeae.Autoencoder(hidden, activation), odeae.SGD(**rates))


# ------------------------------------------------------------------------------ is it right?


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_agrees_with_the_integration_of_all_weights(activation, bias):
    for encoder, decoder, decay in ((1.0, 1.0, 0.0), (0.6, 1.5, 0.05)):
        rates = (encoder, decoder, 0.8 if bias else 0.0)
        p = problem(
            activation,
            bias,
            lr_encoder=encoder,
            lr_decoder=decoder,
            lr_bias=0.8,
            weight_decay=decay,
        )
        b = BIASES if bias else np.zeros(HIDDEN)
        exact = reference.integrate(activation, RHO, *WEIGHTS, b, TIMES, rates, decay)
        got = odeae.predict(p, start(p), TIMES, rtol=1e-9)
        for name in ("error", "Q1", "R1", "T1", "T0", "bias"):
            assert_allclose(getattr(got, name), exact[name], rtol=0, atol=1e-7, err_msg=name)


def test_error_falls_in_proportion_to_the_tolerance():
    p = spiked()
    times = np.geomspace(0.1, 60.0, 30)

    def curve(rtol):
        return odeae.predict(p, odeae.random_state(p), times, rtol=rtol).error

    exact = curve(1e-12)
    tolerances = 10.0 ** -np.arange(4, 10)
    gaps = [np.abs(curve(rtol) - exact).max() for rtol in tolerances]
    slope = np.polyfit(np.log(tolerances), np.log(gaps), 1)[0]
    assert 0.75 < slope < 1.2  # below 1, as loose tolerances do better than asked
    assert np.all(gaps < 3.0 * tolerances)


LONG = [
    # activation, hidden, bias, dim, std, lr; the published code crashes at t = 12 in the first case
    pytest.param("erf", 3, False, 100, 0.1, 1.0, id="erf"),
    pytest.param("relu", 3, False, 100, 0.1, 1.0, id="relu"),
    pytest.param("relu", 3, True, 100, 0.1, 1.0, id="relu-bias", marks=pytest.mark.slow),
    pytest.param("erf", 6, True, 50, 1.0, 3.0, id="erf-wide", marks=pytest.mark.slow),
    pytest.param("relu", 6, False, 1000, 0.1, 1.0, id="relu-wide", marks=pytest.mark.slow),
    pytest.param("linear", 6, False, 1000, 1.0, 1.0, id="linear", marks=pytest.mark.slow),
    pytest.param("tanh", 3, False, 100, 0.1, 1.0, id="tanh", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("activation", "hidden", "bias", "dim", "std", "lr"), LONG)
def test_no_drift_into_nonsense(activation, hidden, bias, dim, std, lr):
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim)
    p = odeae.Problem(spectrum, odeae.Autoencoder(hidden, activation, bias=bias), odeae.SGD(lr=lr))
    state = odeae.random_state(p, std, std, bias=0.1 if bias else 0.0)
    # Some are stiff; `max_steps` is a part of the program.
    got = odeae.predict(p, state, np.geomspace(0.1, 1e4, 100), max_steps=10**7)
    assert np.all(got.error >= spectrum.pca_error(hidden) - 1e-6)
    assert np.all(np.diff(got.error) <= 1e-6 * got.error[0])  # a gradient flow descends
    tight = odeae.predict(p, state, got.times, rtol=1e-8, max_steps=10**7)
    assert_allclose(got.error, tight.error, rtol=0, atol=2e-5)
    gram = np.block([[got.Q1, got.R1.swapaxes(1, 2)], [got.R1, got.T1]])
    lowest = np.linalg.eigvalsh(gram)[:, 0]
    assert np.all(lowest >= -1e-13 * np.trace(gram, axis1=1, axis2=2))


def test_parts_follow_lr_unless_they_have_their_own_rate():
    """`lr` was once copied into the parts: changing it, or differentiating by it, did nothing."""
    p = spiked(lr_decoder=0.5)
    state, times = odeae.random_state(p), jnp.array([1.0, 2.0])
    faster = eqx.tree_at(lambda q: q.rule.lr, p, 2.0 * p.rule.lr)
    want = spiked(lr=2.0, lr_decoder=0.5)
    got = odeae.predict(faster, state, times).error
    assert_allclose(got, odeae.predict(want, state, times).error, rtol=1e-12)
    assert got[0] != odeae.predict(p, state, times).error[0]


# -------------------------------------------------------------------------------- the bulk


def test_bins_of_a_wide_bulk_change_the_error_by_less_than_3e_5():
    dim = 1000
    rho = np.concatenate([dim * np.array([1.0, 0.6, 0.3]), np.linspace(2.0, 0.2, dim - 3)])
    W, V = 0.1 * np.random.default_rng(0).standard_normal((2, HIDDEN, dim))
    times = np.geomspace(0.1, 100.0, 30)
    curves = []
    for spikes in (3, dim):
        p = odeae.Problem(
            odeae.Spectrum.from_eigenvalues(rho, spikes=spikes), odeae.Autoencoder(HIDDEN)
        )
        curves.append(odeae.predict(p, odeae.state_from_weights(p, W, V), times).error)
    assert 0 < np.abs(curves[0] - curves[1]).max() <= 3e-5


def test_equal_eigenvalues_lump_exactly():
    lumped = problem()
    alone = odeae.Problem(odeae.Spectrum.from_eigenvalues(RHO, spikes=DIM), lumped.autoencoder)
    assert len(start(lumped).rows.encoder) == 3 + 12 + 2 * HIDDEN
    got, want = (odeae.predict(p, start(p), TIMES, rtol=1e-10) for p in (lumped, alone))
    for name in ("error", "Q1", "R1", "T1", "T0"):
        assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=1e-9)


def test_cost_does_not_depend_on_the_dimension(caplog):
    times = np.geomspace(0.1, 100.0, 30)
    spikes = odeae.random_state(spiked(10**3)).spikes
    curves = []
    with jax.log_compiles():
        for dim in (10**3, 10**6, 10**9):
            p = spiked(dim)
            state = dataclasses.replace(odeae.random_state(p), spikes=spikes)
            caplog.clear()
            curves.append(odeae.predict(p, state, times, max_steps=160).error)
    assert "Compiling jit(_solve" not in caplog.text  # a dimension is only a number
    assert_allclose(curves[1], curves[2], rtol=1e-4)
    assert_allclose(curves[0], curves[2], rtol=2e-2)


@pytest.mark.slow
def test_large_states_are_measured_at_every_save(monkeypatch):
    """Rows of small states are saved and measured at the end, which is faster; both must agree."""
    p = problem(bias=True)
    want = odeae.predict(p, start(p), TIMES, densities=True, max_steps=9999)
    monkeypatch.setattr(odeae.theory.solve, "_is_small", lambda y: False)
    got = odeae.predict(p, start(p), TIMES, densities=True, max_steps=9998)  # compiled anew
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-13)


# ---------------------------------------------------------------------------- its symmetries


def test_a_common_rate_only_rescales_time():
    slow, fast = (
        problem(bias=True, lr=lr, lr_encoder=0.7 * lr, weight_decay=0.01 * lr) for lr in (1.0, 8.0)
    )
    want = odeae.predict(slow, start(slow), TIMES, rtol=1e-9)
    got = odeae.predict(fast, start(fast), TIMES / 8.0, rtol=1e-9)
    for name in ("error", "Q1", "R1", "T0", "bias"):
        assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_neurons_may_be_permuted(activation):
    p, order = problem(activation, bias=True), np.array([2, 0, 1])
    want = odeae.predict(p, start(p), TIMES, rtol=1e-9)
    got = odeae.predict(p, start(p, *WEIGHTS[:, order], BIASES[order]), TIMES, rtol=1e-9)
    assert_allclose(got.error, want.error, rtol=0, atol=1e-8)
    assert_allclose(got.R1, want.R1[:, order][:, :, order], rtol=0, atol=1e-8)
    assert_allclose(got.bias, want.bias[:, order], rtol=0, atol=1e-8)


@pytest.mark.parametrize("activation", ["erf", "linear"])
def test_neurons_of_an_odd_activation_may_change_sign(activation):
    p, sign = problem(activation, bias=True), np.array([-1.0, 1.0, -1.0])
    want = odeae.predict(p, start(p), TIMES, rtol=1e-9)
    got = odeae.predict(p, start(p, *(sign[:, None] * WEIGHTS), sign * BIASES), TIMES, rtol=1e-9)
    assert_allclose(got.error, want.error, rtol=0, atol=1e-8)
    assert_allclose(got.R1, want.R1 * np.outer(sign, sign), rtol=0, atol=1e-8)
    assert_allclose(got.bias, want.bias * sign, rtol=0, atol=1e-8)


def test_neurons_of_a_linear_network_may_be_rotated():
    p = problem("linear")
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((HIDDEN, HIDDEN)))[0]
    want = odeae.predict(p, start(p), TIMES, rtol=1e-9)
    got = odeae.predict(p, start(p, *(turn @ WEIGHTS)), TIMES, rtol=1e-9)
    assert_allclose(got.error, want.error, rtol=0, atol=1e-8)
    assert_allclose(got.R1, turn @ want.R1 @ turn.T, rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------- derivatives


def final_error(parameters, activation, bias, rtol=1e-9, adjoint=None):
    """Final error as a function of everything continuous in a problem."""
    *rates, spikes, bulk = parameters
    names = ["lr_encoder", "lr_decoder", "weight_decay", "lr_bias"]
    rule = odeae.SGD(**dict(zip(names, rates, strict=False)))
    spectrum = odeae.Spectrum(spikes, bulk, (1,) * 5 + (32,))
    p = odeae.Problem(spectrum, odeae.Autoencoder(HIDDEN, activation, bias=bias), rule)
    return odeae.predict(p, start(p), np.array([8.0]), rtol=rtol, adjoint=adjoint).error[-1]


def test_the_gradient_of_a_linear_network():
    """A rate of all parts only rescales time; vmap used to drop an axis of a zero."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.6], dim=30)

    def final(lr, end=8.0):
        p = odeae.Problem(spectrum, odeae.Autoencoder(2, "linear"), odeae.SGD(lr=lr))
        return odeae.predict(p, odeae.random_state(p, 0.5, 0.5), [end], rtol=1e-9).error[0]

    slope = (final(1.0, 8.008) - final(1.0, 7.992)) / 0.002
    assert_allclose(jax.grad(final)(1.0), slope, rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "bias"),
    [
        ("erf", False),
        pytest.param("erf", True, marks=pytest.mark.slow),
        pytest.param("relu", True, marks=pytest.mark.slow),
    ],
)
def test_gradients_agree_with_finite_differences(activation, bias):
    rates = [1.1, 0.9, 0.02] + [0.7] * bias
    parameters = [*rates, np.array([1.0, 0.6, 0.3]), np.array([1.6, 1.5, 1.3, 1.2, 1.1, 0.7])]
    parameters = jax.tree.map(jnp.asarray, parameters)
    f = functools.partial(final_error, activation=activation, bias=bias)
    at, unravel = ravel_pytree(parameters)
    gradient = ravel_pytree(jax.grad(f)(parameters))[0]

    value = jax.jit(lambda x: f(unravel(x), rtol=1e-11))
    steps = np.diag(1e-4 * np.asarray(at))
    slopes = [  # to fourth order in the step
        (8 * (value(at + h) - value(at - h)) - value(at + 2 * h) + value(at - 2 * h))
        / (12 * h.sum())
        for h in steps
    ]
    assert_allclose(gradient, slopes, rtol=1e-5, atol=0)

    direction = jnp.cos(3.0 * at)
    forward = functools.partial(f, adjoint=diffrax.ForwardMode())
    tangent = jax.jvp(forward, (parameters,), (unravel(direction),))[1]
    assert_allclose(tangent, gradient @ direction, rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "bias"),
    [
        ("relu", False),
        pytest.param("relu", True, marks=pytest.mark.slow),
        pytest.param("erf", False, marks=pytest.mark.slow),
        pytest.param("erf", True, marks=pytest.mark.slow),
    ],
)
def test_gradient_is_finite_where_two_neurons_are_aligned(activation, bias):
    """Neurons 0 and 1 are the same, so their fields are correlated with r = 1 all the time.

    Up to rounding, which one compiled program makes and another doesn't; of the angle between two
    neurons it's the root, 1e-8.
    """
    twin = np.array([0, 0, 2])

    def final(lr, W):
        p = problem(activation, bias, lr=lr)
        state = odeae.state_from_weights(p, W[twin], WEIGHTS[1][twin], BIASES[twin] * bias)
        got = odeae.predict(p, state, np.array([5.0, 10.0]))
        return got.error[-1], got.Q1[-1]

    W = jnp.asarray(WEIGHTS[0])
    (error, Q1), gradient = jax.value_and_grad(final, argnums=(0, 1), has_aux=True)(1.0, W)
    assert_allclose(Q1[0, 1], Q1[0, 0], rtol=1e-7)
    assert np.isfinite(error)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(gradient))


# --------------------------------------------------------------------- jit, vmap, compilation


def test_vmap_equals_a_loop():
    times = np.array([1.0, 10.0])

    def curve(lr, decay, seed):
        p = spiked(lr=lr, weight_decay=decay)
        return odeae.predict(p, odeae.random_state(p, seed=seed), times)

    lr, decay, seed = np.array([0.5, 1.0, 2.0]), np.array([0.0, 0.1, 0.0]), np.arange(3)
    batch = jax.vmap(curve)(lr, decay, seed)
    for i in range(3):
        one = curve(lr[i], decay[i], int(seed[i]))
        # a single problem is solved as a lane, with another first step
        assert_allclose(batch.error[i], one.error, rtol=1e-8)
        assert_allclose(batch.R1[i], one.R1, rtol=1e-7, atol=1e-8)
    assert batch.error.shape == (3, 2)
    assert np.all(batch.status == odeae.Status.OK)


def test_jit_equals_the_plain_call():
    p = spiked()
    state = odeae.random_state(p)
    times = np.array([1.0, 10.0])
    jitted = eqx.filter_jit(lambda p, s, t, r: odeae.predict(p, s, t, rtol=r).error)
    assert_allclose(
        jitted(p, state, times, 1e-7), odeae.predict(p, state, times, rtol=1e-7).error, rtol=1e-9
    )


def test_other_values_of_the_same_shape_do_not_compile_again(caplog):
    def call(times, rtol, lr, std, seed, spikes):
        p = odeae.Problem(
            odeae.Spectrum.spiked(spikes, 500), odeae.Autoencoder(3), odeae.SGD(lr=lr, lr_decoder=2)
        )
        odeae.predict(p, odeae.random_state(p, std, seed=seed), times, rtol=rtol)

    call([1, 2], 1e-4, 1, 0.1, 0, [1, 0.5, 0.25])
    with jax.log_compiles():
        call(np.array([3.0, 4.5]), np.float32(1e-3), 0.5, np.float64(0.2), 3, (0.9, 0.1, 0.05))
        call((1.0, 2.0), jnp.array(1e-5), jnp.float32(2.0), 1, 1, np.array([2.0, 1.0, 0.5]))
    assert "Compiling jit(_solve" not in caplog.text


def test_everything_is_float64():
    p = problem(lr=np.float32(0.5))
    got = odeae.predict(p, start(p), TIMES.astype(np.float32), densities=True)
    arrays = [leaf for leaf in jax.tree.leaves(got) if eqx.is_inexact_array_like(leaf)]
    assert arrays
    assert all(np.asarray(a).dtype == np.float64 for a in arrays)


# --------------------------------------------------------------------------- what is returned


def test_times_may_be_single_or_the_start_alone():
    p = problem()
    at_start = odeae.predict(p, start(p), [0.0])
    assert_allclose(at_start.error, [p.error(start(p))], rtol=1e-13)
    assert (at_start.status, at_start.stop_time) == (odeae.Status.OK, 0.0)
    several = odeae.predict(p, start(p), TIMES, rtol=1e-9)
    single = odeae.predict(p, start(p), TIMES[3:4], rtol=1e-9)
    assert_allclose(single.error, several.error[3:4], atol=1e-8)


def test_densities_sum_to_order_parameters():
    p = problem()
    got = odeae.predict(p, start(p), TIMES, densities=True)
    d, spectrum = got.densities, p.spectrum
    m = np.array(spectrum.multiplicity)
    for letter, name in (("q", "Q1"), ("r", "R1"), ("t", "T1")):
        spikes = np.einsum("m,tmkl->tkl", spectrum.spikes, getattr(d.spikes, letter))
        bulk = np.einsum("m,tmkl->tkl", m * spectrum.bulk / DIM, getattr(d.bulk, letter))
        assert_allclose(spikes, getattr(got.order_parameters.spikes, name), rtol=1e-11, atol=1e-13)
        assert_allclose(spikes + bulk, getattr(got, name), rtol=1e-11, atol=1e-13)
    T0 = d.spikes.t.sum(1) + np.einsum("m,tmkl->tkl", m, d.bulk.t)
    assert_allclose(T0, got.T0, rtol=1e-11, atol=1e-13)
    assert odeae.predict(p, start(p), TIMES).densities is None


@pytest.mark.parametrize(
    "solver",
    [diffrax.Dopri8(), pytest.param(diffrax.Kvaerno5(), marks=pytest.mark.slow)],
    ids=["explicit", "implicit"],
)
def test_another_solver_gives_the_same_curve(solver):
    p = problem(weight_decay=0.1)
    want = odeae.predict(p, start(p), TIMES, rtol=1e-8).error
    got = odeae.predict(p, start(p), TIMES, rtol=1e-8, solver=solver).error
    assert_allclose(got, want, atol=1e-7)


# ----------------------------------------------------------------------------------- going on


def small(**network):
    spectrum = odeae.Spectrum.spiked([1.0, 0.6], 500)
    return odeae.Problem(spectrum, odeae.Autoencoder(2, **network), odeae.SGD(weight_decay=0.01))


GOING_ON = {
    "plain": problem,
    "bias": lambda: problem(bias=True),
    "output bias": lambda: small(activation="relu", bias=True, output_bias=True),
    "tied": lambda: small(tied=True, gain=2.0),
}
DEAR = ("output bias", "tied")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in DEAR else ()) for n in GOING_ON]
)
def test_the_final_state_goes_on(name):
    """Two halves are the whole."""
    p = GOING_ON[name]()
    b = 0.2 if p.autoencoder.bias else 0.0
    state = odeae.random_state(p, None, 0.5, b) if name in DEAR else start(p)
    whole = odeae.predict(p, state, TIMES, rtol=1e-9)
    first = odeae.predict(p, state, TIMES / 2, rtol=1e-9)
    second = odeae.predict(p, first.final, TIMES[-1] / 2 + TIMES / 2, rtol=1e-9)
    assert_allclose(p.error(first.final), first.error[-1], rtol=1e-12)
    assert_allclose(second.error[0], first.error[-1], rtol=1e-12)
    for quantity in ("error", "Q1", "R1", "T1", "T0", "bias"):
        a, b = (getattr(curve, quantity)[-1] for curve in (second, whole))
        assert_allclose(a, b, rtol=0, atol=1e-7, err_msg=quantity)
    assert type(first.final.spikes.encoder) is np.ndarray
    assert first.final.bias.dtype == first.final.bulk.decoder.dtype == np.float64


@pytest.mark.parametrize("solver", [None, diffrax.Tsit5(scan_kind="lax")], ids=["lane", "diffrax"])
def test_a_second_leg_goes_on_with_its_schedule(solver):
    """A final state had no clock: the schedule began anew, and the curve ended at 0.67 for 0.78."""
    schedule = odeae.PowerLawSchedule(1.0, 2.0)
    p = odeae.Problem(small().spectrum, odeae.Autoencoder(2), odeae.SGD(schedule=schedule))
    how = {"rtol": 1e-9, "solver": solver}
    state = odeae.random_state(p, decoder_std=0.5)
    # Each leg has as many times as the whole: one program.
    one, two = np.linspace(0.0, 6.0, len(TIMES)), np.linspace(6.0, 30.0, len(TIMES))
    whole = odeae.predict(p, state, np.append(one[0], two[1:]), **how)
    first = odeae.predict(p, state, one, **how)
    assert first.final.time == first.stop_time == one[-1]
    second = odeae.predict(p, first.final, two, **how)
    assert_allclose(second.error[1:], whole.error[1:], atol=1e-8)
    assert second.final.time == two[-1]
    fresh = dataclasses.replace(first.final, time=None)
    for begin in (fresh, first.final):  # `start_time` overrules the state's own
        again = odeae.predict(p, begin, two, start_time=one[-1], **how)
        assert_allclose(again.error, second.error, atol=1e-12)
    anew = odeae.predict(p, first.final, TIMES, start_time=0.0, **how)
    assert abs(anew.error[-1] - whole.error[-1]) > 0.01
    with pytest.raises(
        ValueError, match=r"`times` must not begin before t=6, .* got 2; .*start_time=0"
    ):
        odeae.predict(p, first.final, TIMES[2:], **how)
    with pytest.raises(ValueError, match="`start_time` must be zero or positive, got -1"):
        odeae.predict(p, state, TIMES, start_time=-1.0)


# ------------------------------------------------------------------------------------ failure


def check_partial(p, state, times, status, words, **options):
    """A failed solve keeps what it reached, says why, and raises only if asked to."""
    got = odeae.predict(p, state, times, throw=False, **options)
    reached = times <= got.stop_time
    assert got.status == status
    assert 0 < reached.sum() < len(times)
    for name in ("error", "Q1", "R1", "T1", "T0", "bias"):
        values = getattr(got, name)
        assert np.isfinite(values[reached]).all()
        assert np.isnan(values[~reached]).all()
    with pytest.raises(RuntimeError, match=rf"stopped at t={got.stop_time:.4g}: .*{words}"):
        odeae.predict(p, state, times, **options)
    return got


def test_step_budget():
    p = problem()
    full = odeae.predict(p, start(p), TIMES)
    got = check_partial(p, start(p), TIMES, odeae.Status.BUDGET, "max_steps", max_steps=20)
    reached = got.stop_time >= TIMES
    assert_allclose(got.error[reached], full.error[reached], atol=1e-6)
    rest = odeae.predict(p, got.final, np.linspace(got.stop_time, TIMES[-1], len(TIMES)))
    assert_allclose(rest.error[-1], full.error[-1], atol=1e-6)


def test_divergence():
    """Hebb's rule grows without bound unless its decay holds it back."""
    network = odeae.Autoencoder(3, "linear", tied=True)
    p = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.6, 0.3], 1000), network, odeae.Hebb())
    times = np.array([0.0, 1.0, 50.0, 1e3])
    got = check_partial(p, odeae.random_state(p), times, odeae.Status.DIVERGED, "diverged")
    assert 50.0 < got.stop_time < 1e3
    held = odeae.predict(
        dataclasses.replace(p, rule=odeae.Hebb(weight_decay=1.1)), got.initial, times
    )
    assert_allclose(held.error[-1], p.spectrum.pca_error(0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("std", [1e60, 1e100, 1e160, 1e300])
def test_absurd_weights_are_a_status(activation, std):
    p = problem(activation)
    got = odeae.predict(p, start(p, *(std * WEIGHTS)), TIMES, throw=False)
    assert got.status == odeae.Status.DIVERGED
    assert np.isnan(got.error[1:]).all()


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_a_first_step_to_infinity_is_rejected(activation):
    """An infinite trial step made the step size NaN, and all further steps were lost."""
    p = problem(activation)
    times = 1e-2 * TIMES / TIMES[-1]
    got = odeae.predict(p, start(p, *(300.0 * WEIGHTS)), times, throw=False)
    assert got.status == odeae.Status.OK


def test_no_step_is_accepted_in_spite_of_its_error():
    """The smallest step used to be 1e-12, and a solve that needed smaller ones returned 1e30."""
    slow, fast = (problem(lr=lr) for lr in (1.0, 1e15))
    want = odeae.predict(slow, start(slow), TIMES)
    got = odeae.predict(fast, start(fast), TIMES / 1e15)
    assert_allclose(got.error, want.error, atol=1e-6)


def test_quadrature_out_of_its_range():
    narrow = odeae.Autoencoder(1, odeae.Quadrature(jnp.tanh, scale=0.5, q_max=0.5))
    p = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.6], 100), narrow)
    times = np.array([0.0, 0.1, 1.0, 50.0])
    got = check_partial(p, odeae.random_state(p), times, odeae.Status.UNRESOLVED, "larger `q_max`")
    assert got.Q1[times <= got.stop_time].max() <= 0.5
    beyond = odeae.predict(p, odeae.random_state(p, 50.0), times, throw=False)
    assert beyond.status == odeae.Status.UNRESOLVED
    assert np.isnan(beyond.error).all()


@pytest.mark.slow
def test_a_batch_never_raises():
    def curve(lr):
        p = spiked(lr=lr)
        return odeae.predict(p, odeae.random_state(p), np.array([1.0, 100.0]), max_steps=100)

    got = jax.vmap(curve)(np.array([0.1, 1e3, 0.2]))
    assert got.status.tolist() == [odeae.Status.OK, odeae.Status.BUDGET, odeae.Status.OK]
    assert np.isfinite(got.error).tolist() == [[True, True], [False, False], [True, True]]


SETUP = """
import diffrax, numpy as np, odeae
p = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], 20), odeae.Autoencoder(2))
q = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.5], 20), odeae.Autoencoder(3))
s = odeae.random_state(p)
def predict(problem=p, state=s, times=(1.0, 2.0), **options):
    return odeae.predict(problem, state, times, **options)
"""
BAD = {
    "predict(times=[])": r"`times` must hold at least one time .* got an empty list",
    "predict(times=[1, 3, 2])": r"`times` must increase, got 2 after 3 at index 2",
    "predict(times=[1, 1])": r"`times` must increase, got 1 after 1",
    "predict(times=[-1, 1])": r"`times` must not be negative, got -1 at index 0",
    "predict(times=[1, np.nan])": r"`times` must be finite, got nan at index 1",
    "predict(times=[1, np.inf])": r"`times` must be finite, got inf",
    "predict(times=10.0)": r"`times` must be a list of times .*got the number 10; write np.lins",
    "predict(times='soon')": r"`times` must hold real numbers, got 'soon'",
    "predict(times=None)": r"`times` must be given, got None",
    "predict(rtol=0.0)": r"`rtol` must be positive, got 0",
    "predict(rtol=-1e-6)": r"`rtol` must be positive, got -1e-06",
    "predict(rtol=10)": r"`rtol` must be at most 0.1, got 10",
    "predict(rtol=np.nan)": r"`rtol` must be finite, got nan",
    "predict(rtol=[1e-6])": r"`rtol` must be a single number, got shape",
    "predict(atol=0.0)": r"`atol` must be positive, got 0",
    "predict(max_steps=0)": r"`max_steps` must be at least 1, got 0",
    "predict(max_steps=1.5)": r"`max_steps` must be a whole number, got 1.5",
    "predict(solver='tsit5')": r"`solver` must be odeae.Rodas4\(\) or .* got 'tsit5'",
    "predict(solver=diffrax.Euler())": r"`solver` must be .* estimates its error.* got Euler\(\)",
    "predict(problem='erf')": r"`problem` must be an odeae Problem, got str",
    "predict(problem=q)": r"`state` must have .* \(2, 3\) for this problem, got \(2, 2\)",
    "predict(state=None)": r"`state` must be an odeae State, got NoneType",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_named_in_one_line(said, line):
    plain.named_in_one_line(said[line], BAD[line])
