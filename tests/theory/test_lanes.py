"""Lanes against what they stand for: one problem alone, whatever its neighbours are."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import plain
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import odeae
from odeae.averages import special as gaussian
from odeae.base import compiler, contractions
from odeae.base.compiler import with_whole_vectors
from odeae.base.status import Status
from odeae.model.errors import generalisation_error
from odeae.model.schedules import longest_step
from odeae.model.state import total_overlaps
from odeae.theory import lanes, queue
from odeae.theory.equations import equations_of, surroundings, vector_field
from odeae.theory.quantities import quantities
from odeae.theory.step_control import SMALLEST, StepControl

FAST = {"xla_backend_optimization_level": 0}  # to compile


@pytest.fixture(autouse=True)
def _ranks():
    with jax.numpy_rank_promotion("allow"):  # lanes align at the end, as in `solve_lanes`
        yield


def family(
    hidden=2, activation="erf", spikes=(1.0, 0.6), fixed=None, rule="SGD", power=None, **net
):
    """A function that builds one lane of its numbers, as a sweep's `build` does."""

    def build(lr=1.0, std=0.2, noise=0.0, top=1.0, bias=0.0, seed=0, **options):
        network = odeae.Autoencoder(hidden, activation, **net)
        schedule = None if power is None else odeae.PowerLawSchedule(power, 2.0)
        learning = getattr(odeae, rule)(lr=lr, schedule=schedule, **(fixed or {}), **options)
        spectrum = odeae.Spectrum.spiked(jnp.asarray(spikes) * top, 200)
        problem = odeae.Problem(spectrum, network, learning, noise=noise)
        stds = {"decoder_std": std} if network.tied else {"encoder_std": std, "decoder_std": std}
        return problem, odeae.random_state(problem, bias=bias, seed=seed, **stds)

    return build


def built(build, **values):
    """Equations and states of lanes, the lane axis last."""

    def one(*numbers):
        problem, state = build(**dict(zip(values, numbers, strict=True)))
        return equations_of(problem), state

    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(one, out_axes=-1), compiler_options=FAST)(*values.values())
    )


def take(lane, index):
    return jax.tree.map(lambda x: x[..., index], lane)


def put(lane, index, other):
    """Lanes with those at `index` replaced."""

    def one(x, y):
        x = x.copy()
        x[..., index] = y
        return x

    return jax.tree.map(one, lane, other)


def solve(lane, times, count=None, rtol=1e-6, atol=None, max_steps=20_000, names=(), slots=None):
    n = lane[1].bias.shape[-1]
    count, max_steps = np.asarray(n if count is None else count), np.asarray(max_steps)
    times, rtol = np.asarray(times, float), np.asarray(rtol)
    solved = with_whole_vectors(queue.solve_lanes)(
        *lane, count, times, rtol, atol, max_steps, names, slots
    )
    values, final_excess, status, stop_time, _ = jax.tree.map(np.asarray, solved)
    equations, _ = lane
    floor = 0.5 * equations.inputs.trace - _explained(equations)
    ended = np.where(status == Status.OK, values["error"][:, -1] - floor, np.nan)
    assert_allclose(final_excess[:count], ended[:count], atol=1e-13)
    return values, status, stop_time


def _explained(equations):
    """Half the largest eigenvalues of each lane, as many as neurons (the bulk's are smaller)."""
    spikes = equations.inputs.rho[: equations.inputs.n_spikes]
    largest = -np.sort(-spikes, axis=0)[: equations.network.hidden]
    return 0.5 * (largest.sum(axis=0) + equations.leading.rest)


def rows(solved, index):
    return jax.tree.map(lambda x: x[index], solved)


def assert_same(one, other):
    jax.tree.map(assert_array_equal, one, other)  # NaN equals NaN; nothing else is forgiven


# ------------------------------------------------------------------------------ contractions


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_WHOLE", {"xla_of_another_time": 1})
    double = with_whole_vectors.__wrapped__(lambda x: 2.0 * x)
    assert double(jnp.asarray(3.0)) == 6.0


def test_contractions_serve_lanes_as_they_serve_one_problem():
    n, k, width, size = 7, 3, 2, 5
    rng = np.random.default_rng(1)
    pairs, other = rng.standard_normal((2, k, k, size))
    a, b = rng.standard_normal((n, k, size)), rng.standard_normal((n, width, size))
    weights, values = rng.standard_normal((n, size)), rng.standard_normal((k, size))
    for function, *arguments in (
        (contractions.diagonal, pairs),
        (contractions.gram, a, b),
        (contractions.gram, a, a, weights),
        (contractions.mixed, a, pairs),
        (contractions.on_diagonal, values),
        (contractions.lower, other),
    ):
        together = np.asarray(function(*arguments))
        for i in range(size):
            alone = function(*(x[..., i] for x in arguments))
            assert_allclose(together[..., i], alone, rtol=1e-14, atol=1e-14)


def test_contractions_of_one_problem_are_what_they_say():
    rng = np.random.default_rng(2)
    a, b, weights = rng.standard_normal((6, 3)), rng.standard_normal((6, 2)), rng.random(6)
    pairs = rng.standard_normal((3, 3))
    assert_allclose(contractions.gram(a, b, weights), np.einsum("n,nk,nl->kl", weights, a, b))
    assert_allclose(contractions.mixed(a, pairs), np.einsum("na,ka->nk", a, pairs))
    assert_array_equal(contractions.lower(pairs), np.tril(pairs))
    assert_array_equal(contractions.on_diagonal(weights[:3]), np.diag(weights[:3]))


@pytest.mark.parametrize("first", [1.0, 0.0, np.nan, np.inf, -np.inf, 1e308])
def test_values_computed_once_stay_what_they_are(first):
    values = (jnp.asarray([[first, 2.0], [3.0, np.nan]]), jnp.arange(6.0).reshape(2, 3), None)
    got = jax.jit(lambda v: compiler.computed_once(lambda: v, v[0]))(values)
    assert got[2] is None
    assert_same(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, values))


# ------------------------------------------------------------------------------ the drift

PARTS = {"lr_encoder": 0.7, "lr_decoder": 1.3, "weight_decay": 0.05}
FAMILIES = {
    "erf": family(3, fixed=PARTS),
    "erf, biases": family(3, bias=True, output_bias=True, fixed={"lr_bias": 0.4}),
    "erf, one neuron": family(1),
    "erf, truncated": family(3, fixed=PARTS | {"truncated": True}),
    "erf, tied": family(3, tied=True, gain=1.4, fixed={"weight_decay": 0.05}),
    "erf, spikes alone": family(2, spikes=tuple(np.linspace(1.0, 0.1, 200))),
    "erf, bulk alone": family(2, spikes=()),
    "relu": family(3, "relu"),
    "relu, truncated": family(2, "relu", fixed={"truncated": True}),
    "relu, tied, biases": family(2, "relu", tied=True, gain=0.8, bias=True, output_bias=True),
    "linear": family(3, "linear", bias=True, output_bias=True, fixed=PARTS),
    "linear, encoder": family(2, "linear", tied=True, gain=1.2, fixed={"gradient": "encoder"}),
    "linear, decoder": family(2, "linear", tied=True, fixed={"gradient": "decoder"}),
    "Oja": family(3, "linear", tied=True, rule="Oja"),
    "Sanger": family(3, "linear", tied=True, rule="Sanger", fixed={"weight_decay": 0.1}),
    "Hebb": family(3, "linear", tied=True, rule="Hebb", fixed={"weight_decay": 1.2}),
}


@pytest.mark.sampled
@pytest.mark.parametrize("build", FAMILIES.values(), ids=list(FAMILIES))
def test_drift_and_error_of_lanes_are_those_of_each(build):
    n, rng = 5, np.random.default_rng(3)
    equations, states = built(
        build, lr=rng.uniform(0.5, 2.0, n), noise=rng.uniform(0, 40, n), top=rng.uniform(0.5, 2, n),
        bias=rng.uniform(-1, 1, n), std=rng.uniform(0.1, 1.0, n), seed=np.arange(n),
    )  # fmt: skip
    factor = rng.uniform(0.1, 1.0, n)

    def both(equations, state, factor):
        network, inputs = equations.network, equations.inputs
        total = total_overlaps(state, inputs)
        error = generalisation_error(network, total, state.bias, inputs.trace)
        layout = equations.layout
        y = layout.pack(state)
        again = layout.pack(layout.unpack(y))
        return equations.rule.drift(network, inputs, state, factor), total, error, y - again

    together = jax.jit(both, compiler_options=FAST)(equations, states, factor)
    each = jax.vmap(both, in_axes=-1, out_axes=-1)
    alone = jax.jit(each, compiler_options=FAST)(equations, states, factor)
    assert jax.tree.structure(together) == jax.tree.structure(alone)
    for got, want in zip(*map(jax.tree.leaves, (together, alone)), strict=True):
        assert got.shape == want.shape
        if want.size:
            assert_allclose(got, want, rtol=1e-13, atol=1e-13 * np.abs(want).max())
    assert np.all(together[3] == 0.0)


# ------------------------------------------------------------------------------ arcsine

SINES = [0.0, 1e-290, 1e-9, 0.3, -0.3, 0.5, 0.9, -0.999, 1 - 1e-9, 1 - 1e-16, -(1 - 1e-16), 1.0, -1]


@pytest.mark.parametrize("norm", [1.0, 1e-8, 3e12])
def test_arcsine_to_full_precision(norm):
    with mpmath.workdps(40):
        cosines = [mpmath.sqrt(1 - mpmath.mpf(s) ** 2) for s in SINES]
        sine = np.array([float(norm * mpmath.mpf(s)) for s in SINES])
        cosine = np.array([float(norm * c) for c in cosines])
        exact = [
            mpmath.atan2(mpmath.mpf(s), mpmath.mpf(c)) for s, c in zip(sine, cosine, strict=True)
        ]
    got = gaussian.arcsine(sine, cosine, np.full(len(sine), norm))
    assert_allclose(got, np.array(exact, float), rtol=8e-16)


def test_derivatives_of_arcsine_are_exact():
    # dθ of θ(x) = arcsine(x, √(1−x²), 1), and of the unnormalised triple (s x, s c, s).
    for x in (0.0, 0.3, -0.9, 1 - 1e-8, -(1 - 1e-12)):

        def theta(x, scale):
            return gaussian.arcsine(
                scale * x, scale * jnp.sqrt((1.0 - x) * (1.0 + x)), jnp.asarray(scale)
            )

        dx, dscale = jax.grad(theta, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(3.0))
        assert_allclose(dx, 1 / np.sqrt((1 - x) * (1 + x)), rtol=1e-13)
        assert_allclose(dscale, 0.0, atol=1e-13 * abs(float(dx)))


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e4, 1e10])
@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-7, 0.0])
def test_overlap_of_erf_at_extreme_covariances(scale, gap):
    # Neurons at distance `gap` from aligned; G = (2/π) arcsin(q12/√((1+q1)(1+q2))).
    w = np.sqrt(scale) * np.array([[1.0, 0.0], [1.0, gap], [-1.0, 0.5 * gap]])
    Q = w @ w.T
    with mpmath.workdps(50):
        q = mpmath.matrix(Q.tolist())
        exact = [
            [2 / mpmath.pi * mpmath.asin(q[i, j] / mpmath.sqrt((1 + q[i, i]) * (1 + q[j, j])))
             for j in range(3)] for i in range(3)
        ]  # fmt: skip
    exact = np.array(exact, float)
    lane = np.stack([Q, 2.0 * Q], axis=-1)
    together = jax.jit(odeae.Erf().averages)(lane)
    for got in (odeae.Erf().averages(Q).G, together.G[..., 0]):
        assert_allclose(got, exact, rtol=4e-15, atol=0)


# ------------------------------------------------------------------------------ parts of a step


def test_largest_sees_every_row_and_takes_nan_as_infinite():
    for n in (1, 31, 32, 33, 64, 100):
        values = np.eye(n)[:, [0, n // 2, n - 1]] + 1.0
        assert_array_equal(lanes._largest(jnp.asarray(values)), np.full(3, 2.0))
        values[n - 1, 1] = np.nan
        assert_array_equal(lanes._largest(jnp.asarray(values)), [2.0, np.inf, 2.0])


def test_interpolation_ends_at_the_step():
    pair = diffrax.Tsit5()
    weights = lanes._interpolation(pair, jnp.asarray([0.0, 1.0, 0.3]))
    assert_allclose(weights[:, 0], 0.0, atol=1e-15)
    assert_allclose(weights[:, 1], pair.tableau.b_sol, atol=1e-14)
    assert_allclose(weights[:, 2].sum(), 0.3, rtol=1e-13)  # y' = 1


# ------------------------------------------------------------------------------ solves

# One program for most of what follows: 44 lanes, 16 slots (a full last group needs four that are
# made up), 36 numbers in a row, 41 times.
BUILD = family(2, spikes=(1.0, 0.8, 0.6, 0.5, 0.4))
N, SLOTS, T = 44, 16, 41
DRAWN = np.random.default_rng(0).uniform(-1.0, 1.0, (4, N))
TIMES = np.r_[0.0, np.geomspace(0.01, 50.0, T - 1)]
NAMES = ("Q1", "R1", "bias", "error_clean")
LR, STD = np.exp(DRAWN[0]), np.exp(1.5 * (DRAWN[1] - 1.0))
LR[-1] = 6.0  # the last is the one with most steps


@pytest.fixture(scope="module")
def base():
    return built(
        BUILD, lr=LR, std=STD, noise=10.0 * (1.0 + DRAWN[2]), seed=np.arange(N, dtype=np.int32),
        lr_encoder=LR * np.exp(0.5 * DRAWN[3]),
    )  # fmt: skip


def run(lane, times=TIMES, **keywords):
    return solve(lane, times, names=NAMES, slots=SLOTS, **keywords)


@pytest.fixture(scope="module")
def solved(base):
    with jax.numpy_rank_promotion("allow"):
        return run(base)


@eqx.filter_jit
def _alone(equations, state, times, rtol):
    """Solve one problem by diffrax itself: the same pair, control and first step."""
    y, pair, terms = equations.layout.pack(state), diffrax.Tsit5(), diffrax.ODETerm(vector_field)
    end, schedule = times[-1], equations.rule.schedule
    control = StepControl(
        rtol=rtol,
        atol=SMALLEST * rtol,
        end=end,
        longest=longest_step(schedule, end),
        around=surroundings,
    )
    first, _ = control.init(terms, jnp.zeros(()), end, y, None, equations, pair.func, 5)
    solution = diffrax.diffeqsolve(
        terms, pair, 0.0, end, first, y, equations, stepsize_controller=control, max_steps=4096,
        saveat=diffrax.SaveAt(subs=[
            diffrax.SubSaveAt(ts=times),
            diffrax.SubSaveAt(steps=True, fn=lambda *_: jnp.zeros(())),
        ]),
    )  # fmt: skip
    values = jax.vmap(lambda y: quantities(NAMES, equations, y))
    return solution.ts[1], values(solution.ys[0]), solution.stats


def alone(lane, i, times=TIMES, rtol=1e-6):
    """Times where steps end, what is saved, and diffrax's count of steps."""
    return _alone(*take(lane, i), np.asarray(times, float), np.asarray(rtol))


def test_a_lane_takes_the_steps_that_it_would_take_alone(base, solved):
    values, status, stop_time = solved
    assert np.all(status == Status.OK)
    assert np.all(stop_time == TIMES[-1])
    for i in (0, 7, 15, 16, 31, 32, N - 2, N - 1):  # first and last, of groups and of the queue
        for name, want in alone(base, i)[1].items():
            assert_allclose(values[name][i], want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "times",
    [
        np.linspace(0.0, 0.3, T),  # many in one step
        np.linspace(7.0, 7.5, T),  # none in the first steps
        np.r_[np.geomspace(1e-8, 1e-3, T - 2), 1.0, 300.0],  # far apart
        np.r_[np.linspace(1.0, 1.0 + 1e-9, T - 1), 1.0 + 2e-9],
    ],
    ids=["dense", "late", "far apart", "within rounding"],
)
def test_each_time_is_saved_wherever_it_falls(base, times):
    values, status, stop_time = run(base, times)
    assert np.all(status == Status.OK)
    assert np.all(stop_time == times[-1])
    for i in (0, 20, N - 1):
        for name, want in alone(base, i, times)[1].items():
            assert_allclose(values[name][i], want, rtol=1e-9, atol=1e-11)


def test_error_is_that_of_predict(base, solved):
    exact, off = [], {}
    few = (0, 9, 18, 27, 36)
    for i in few:
        exact.append(alone(base, i, rtol=1e-12)[1]["error"])
    for rtol in (1e-4, 1e-6, 1e-8):
        got = run(base, rtol=rtol)[0]["error"][list(few)]
        off[rtol] = np.abs(got / exact - 1)
    own = [
        np.abs(alone(base, i, rtol=1e-6)[1]["error"] / e - 1).max()
        for i, e in zip(few, exact, strict=True)
    ]
    assert off[1e-6].max() <= 1.5 * max(own) < 1e-6
    assert np.all(off[1e-6].max(axis=1) < 0.2 * off[1e-4].max(axis=1))
    assert np.all(off[1e-8].max(axis=1) < 0.2 * off[1e-6].max(axis=1))


def test_lanes_agree_with_predict():
    values = {"lr": [0.5, 1.5, 3.0], "std": [0.1, 0.3, 1.0], "seed": [3, 4, 5]}
    values |= {"noise": [0.0, 0.0, 0.0], "lr_encoder": values["lr"]}  # given, as in `base`
    lane = built(BUILD, **{k: np.array(v) for k, v in values.items()})
    full = put(take(lane, np.zeros(N, int)), np.arange(3), lane)
    got = run(full)[0]["error"]
    for i in range(3):
        problem, state = BUILD(**{k: v[i] for k, v in values.items()})
        exact = odeae.predict(problem, state, TIMES, rtol=1e-10).error
        plain = odeae.predict(problem, state, TIMES, rtol=1e-6).error
        assert np.abs(got[i] - exact).max() < 3 * np.abs(plain - exact).max() < 1e-6


def nasty(lane):
    """Lanes to fear as neighbours: NaN, infinite, huge, very stiff, over budget."""
    n = lane[1].bias.shape[-1]
    rows, spikes = lane[1].rows.encoder.copy(), slice(None, lane[1].n_spikes)
    rows[spikes, :, 0], rows[spikes, :, 1 % n], rows[spikes, :, 2 % n] = np.nan, np.inf, 1e60
    lane = eqx.tree_at(lambda lane: lane[1].rows.encoder, lane, rows)
    lr = lane[0].rule.lr_encoder.copy()
    lr[3::2] = 1e3
    return eqx.tree_at(lambda lane: lane[0].rule.lr_encoder, lane, lr)


@pytest.mark.parametrize("where", ["first", "middle", "last", "every second", "all but one"])
def test_neighbours_change_nothing(base, solved, where):
    index = {
        "first": np.arange(6),
        "middle": np.arange(14, 19),
        "last": np.arange(N - 6, N),
        "every second": np.arange(0, N, 2),
        "all but one": np.delete(np.arange(N), 21),
    }[where]
    lane = put(base, index, nasty(take(base, index)))
    got, others = run(lane, max_steps=600), np.delete(np.arange(N), index)
    assert_same(rows(got, others), rows(solved, others))
    assert np.all(got[1][index[:3]] != Status.OK)
    assert np.any(got[1][index] == Status.BUDGET)


def test_position_changes_nothing(base, solved):
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(N)
        assert_same(run(take(base, order)), rows(solved, order))
    assert_same(run(take(base, np.full(N, N - 1))), rows(solved, np.full(N, N - 1)))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 43])
def test_lanes_that_fill_up_are_not_solved_and_change_nothing(base, solved, count):
    values, status, stop_time = got = run(base, count=count)
    real = np.arange(count)
    assert_same(rows(got, real), rows(solved, real))
    assert np.all(stop_time[count:] == 0.0)
    assert np.all(np.isnan(values["error"][count:, 1:]))
    assert np.all(status[count:] == Status.OK)


# ------------------------------------------------------------------------------ fate


@pytest.mark.parametrize("max_steps", [1, 8, 9, 24, 25])  # 8 a round
def test_a_budget_is_counted_in_steps_and_keeps_the_curve_before(base, solved, max_steps):
    whole, (values, status, stop_time) = solved[0], run(base, max_steps=max_steps)
    assert np.all(status == Status.BUDGET)
    reached = TIMES[None, :] <= stop_time[:, None]
    for name, value in values.items():
        keep = np.broadcast_to(reached.reshape(N, T, *[1] * (value.ndim - 2)), value.shape)
        assert_array_equal(value, np.where(keep, whole[name], np.nan))
    for i in (0, 16, N - 1):
        ends = np.append(0.0, alone(base, i)[0])  # the first step may be tried again
        last = int(np.argmin(np.abs(ends - stop_time[i])))
        assert_allclose(stop_time[i], ends[last], rtol=1e-4)
        assert max_steps - 4 < last <= max_steps  # some are rejected


def test_a_budget_that_just_does(base, solved):
    for i in (3, 20, N - 1):
        steps = int(alone(base, i)[2]["num_steps"])
        enough = run(base, max_steps=steps)
        assert enough[1][i] == Status.OK
        assert_same(rows(enough, i), rows(solved, i))
        assert run(base, max_steps=steps - 1)[1][i] == Status.BUDGET


@pytest.mark.parametrize("value", [1e60, 1e200, -1e100])
def test_huge_rows_have_diverged_at_the_start(base, solved, value):
    rows_of_base = base[1].rows.encoder.copy()
    rows_of_base[1, 0, 5] = value
    got = run(eqx.tree_at(lambda lane: lane[1].rows.encoder, base, rows_of_base))
    assert got[1][5] == Status.DIVERGED
    assert got[2][5] == 0.0
    assert np.all(np.isnan(got[0]["error"][5, 1:]))
    assert_same(rows(got, np.delete(np.arange(N), 5)), rows(solved, np.delete(np.arange(N), 5)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_have_diverged_at_the_start(base, value):
    # They ended as BUDGET, after as many rounds as the budget has steps; `predict` says DIVERGED.
    rows_of_base = base[1].rows.encoder.copy()
    rows_of_base[1, 0, 5] = value
    got = run(eqx.tree_at(lambda lane: lane[1].rows.encoder, base, rows_of_base), max_steps=500)
    assert got[1][5] == Status.DIVERGED
    assert got[2][5] == 0.0


def test_parts_that_do_not_move_and_states_of_zeros(base, solved):
    frozen = eqx.tree_at(lambda e: e[0].rule.lr_encoder, base, np.zeros(N))
    values, status, _ = run(frozen)
    assert np.all(status == Status.OK)
    assert_array_equal(values["Q1"], np.broadcast_to(values["Q1"][:, :1], values["Q1"].shape))
    assert np.all(np.diff(values["error"][:, [0, -1]]) < 0)
    zeros = jax.tree.map(np.zeros_like, base[1])
    one = put(base, [5], take((base[0], zeros), [5]))
    got = run(one)
    assert got[1][5] == Status.OK
    assert_array_equal(got[0]["error"][5], np.full(T, got[0]["error"][5, 0]))
    others = np.delete(np.arange(N), 5)
    assert_same(rows(got, others), rows(solved, others))


def test_one_program_serves_all_values(base, solved):
    size = with_whole_vectors(queue.solve_lanes)._cached._cache_size
    before = size()
    run(take(base, np.arange(N)[::-1]), 2.0 * TIMES, rtol=1e-5, count=20, max_steps=50)
    assert size() == before


def test_curves_that_diverge_stop_where_predict_stops():
    # Hebb's rule: du = (η ρ̃ − κ) u, exactly exponential until it is HUGE; with a power-law rate it
    # grows for a while, then decays. 7 lanes in 4 slots.
    power, n = 0.5, 7
    build = family(2, "linear", tied=True, rule="Hebb", power=power, spikes=(1.0, 0.5))
    lr, decay = np.array([0.5, 40.0, 1.0, 60.0, 2.0, 50.0, 1.5]), np.full(n, 0.7)
    lane = built(build, lr=lr, weight_decay=decay, seed=np.arange(n))
    times = np.linspace(0.0, 20.0, 11)
    values, status, stop_time = solve(lane, times, slots=4, names=("T0",))
    assert_array_equal(status, [0, 1, 0, 1, 0, 1, 0])
    for i in range(n):
        problem, state = build(lr[i], weight_decay=decay[i], seed=i)
        exact = odeae.predict(problem, state, times, rtol=1e-10, throw=False)
        assert int(exact.status) == status[i]
        assert_allclose(stop_time[i], exact.stop_time, rtol=0.03)
        reached = times <= stop_time[i]
        assert np.all(np.isfinite(values["error"][i]) == reached)
        # ∫ (1 + s/2)^(−1/2) ds = 4 (√(1 + t/2) − 1) is the age of the spikes.
        age = 4.0 * (np.sqrt(1.0 + times / 2.0) - 1.0)
        growth = np.exp(lr[i] * np.array([[1.0], [0.5], [1 / 200]]) * age - 0.7 * times)
        with np.errstate(over="ignore"):
            u = np.concatenate([state.spikes.decoder, state.bulk.decoder])
            rho = np.r_[0, 1, np.full(len(u) - 2, 2)]
            want = np.einsum("nk,nt,nl->tkl", u, growth[rho] ** 2, u)
        assert_allclose(values["T0"][i][reached], want[reached], rtol=3e-5, atol=1e-8)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "spikes",
    [(1.0,), ()],
    ids=["spike", "no spike"],
)
def test_one_lane_one_time(spikes):
    build = family(1, "linear", tied=True, rule="Oja", spikes=spikes)
    lane = built(build, seed=np.array([3]))
    for time in (0.0, 1e-9, 2.0, 400.0):
        values, status, stop_time = solve(lane, [time])
        problem, state = build(seed=3)
        want = odeae.predict(problem, state, [time], rtol=1e-9).error
        assert_allclose(values["error"][0], want, rtol=1e-6)
        assert status[0] == Status.OK
        assert stop_time[0] == time


AS_USERS = """
import warnings
import numpy as np, odeae
warnings.simplefilter("ignore")  # of what is nasty
rng, n = np.random.default_rng(0), 20
lr, std = np.exp(rng.uniform(-1, 1, n)), np.exp(rng.uniform(-3, 0, n))
lanes = {"lr": lr, "std": std, "seed": np.arange(n)}
spectrum, times = odeae.Spectrum.spiked([1.0, 0.6], 200), np.r_[0.0, np.geomspace(0.01, 50.0, 20)]
def build(lr, std, seed):
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2), odeae.SGD(lr))
    return problem, odeae.random_state(problem, std, std, seed=seed)
def curves(lanes):
    return odeae.sweep(build, lanes, times, zip=True, save="Q1", max_steps=600)
whole, order = curves(lanes), rng.permutation(n)
moved = curves({name: values[order] for name, values in lanes.items()})
nasty = curves(lanes | {"lr": np.where(np.arange(n) % 2, lr, 1e4 + np.arange(n))})
assert np.all(whole.status == 0) and np.all(nasty.status[::2] != 0)
for name in ("error", "Q1", "stop_time", "final_excess"):
    assert np.array_equal(moved[name], whole[name][order]), name
    assert np.array_equal(nasty[name][1::2], whole[name][1::2]), name
exact = odeae.predict(*build(*(lanes[name][-1] for name in lanes)), times, rtol=1e-10)
print(np.abs(whole.error.values[-1] / exact.error - 1).max())
"""


def test_lanes_as_users_compile_them():
    """With all that XLA does to make them fast, which these tests do without (conftest)."""
    assert float(plain.run(AS_USERS)) < 1e-6


# ------------------------------------------------------------------------------ full size


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 16, 64, 65, 127])
def test_position_among_any_number_of_lanes(n):
    lane = built(BUILD, lr=np.linspace(0.5, 3.0, n), seed=np.arange(n))
    first, order = solve(lane, TIMES), np.random.default_rng(n).permutation(n)
    assert np.all(first[1] == Status.OK)
    assert_same(solve(take(lane, order), TIMES), rows(first, order))
    assert_allclose(first[0]["error"][-1], alone(lane, n - 1)[1]["error"], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("build", FAMILIES.values(), ids=list(FAMILIES))
def test_every_rule_and_network_agrees_with_predict(build):
    n, times = 5, np.r_[0.0, np.geomspace(0.01, 5.0, 9)]
    lr, seeds = np.linspace(0.3, 1.0, n), np.arange(n)
    values, status, _ = solve(built(build, lr=lr, seed=seeds), times)
    assert np.all(status == Status.OK)
    for i in range(n):
        problem, state = build(lr=lr[i], seed=i)
        exact = odeae.predict(problem, state, times, rtol=1e-10).error
        assert_allclose(values["error"][i], exact, rtol=1e-6)
