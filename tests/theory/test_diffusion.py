"""What the noise of SGD's steps makes: ⟨a aᵀ⟩ by samples and by SciPy, and the closed ODE by hand.

The second routes know nothing of the first. Samples take the network as it is: inputs, fields and
residuals, step by step. The quadrature goes over the fields λ on their own axes, split at kinks,
with ν given λ in closed form.
"""

import dataclasses
import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose

import odeae
from odeae.averages.activation import AbstractActivation
from odeae.model.gradient_noise import gradient_covariance
from odeae.model.state import Modes, OutputOverlaps, Overlaps, State
from odeae.theory.strategy import EXPLICIT_STEPS

pytestmark = pytest.mark.sampled

RHO = np.array([1.0, 0.6, 0.3, 0.1, 0.1, 0.1])  # scaled eigenvalues: these modes are all there are
RNG = np.random.default_rng(3)
W, U = RNG.standard_normal((2, 3, len(RHO)))
BIAS, OUTPUT = np.array([0.4, -0.3, 0.2]), 0.5 * RNG.standard_normal(len(RHO))


def erf(x):
    return scipy.special.erf(x / np.sqrt(2.0)), np.sqrt(2.0 / np.pi) * np.exp(-0.5 * x * x)


def relu(x):
    return np.maximum(x, 0.0), np.heaviside(x, 0.5)


def linear(x):
    return x, np.ones_like(x)


def tanh(x):
    return np.tanh(x), 1.0 - np.tanh(x) ** 2


FUNCTIONS = {"erf": erf, "relu": relu, "linear": linear, "tanh": tanh}


def second_like_first(distance=0.0, sign=1.0):
    """Neuron 1 at `distance` of neuron 0."""
    return np.stack([W[0], sign * W[0] + distance * W[1], W[2]])


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights: encoder rows w and decoder rows u of the modes of RHO, and the corruption s²/D."""

    encoder: np.ndarray = dataclasses.field(default_factory=lambda: W)
    bias: np.ndarray = dataclasses.field(default_factory=lambda: BIAS)
    output: np.ndarray | None = None
    truncated: bool = False
    noise: float = 0.5


STARTS = {
    "biases": Start(),
    "no biases, no noise": Start(bias=np.zeros(3), noise=0.0),
    "output bias": Start(output=OUTPUT),
    "truncated": Start(truncated=True),
    "larger fields": Start(2.0 * W),
    "nearly aligned": Start(second_like_first(1e-3)),
    "aligned": Start(second_like_first()),
    "aligned, equal biases": Start(second_like_first(), bias=np.array([0.4, 0.4, 0.2])),
    "opposite": Start(second_like_first(sign=-1.0)),
    "small fields": Start(1e-8 * W),
    "one off": Start(bias=np.array([0.4, -30.0, 0.2])),
}


@dataclasses.dataclass(frozen=True)
class Case:
    activation: str
    hidden: int
    start: str

    def __str__(self):
        return f"{self.activation}, K={self.hidden}, {self.start}"

    @property
    def arguments(self):
        """Arguments of `gradient_covariance`, from the weights by plain sums."""
        K, start = self.hidden, STARTS[self.start]
        w, u, rho = start.encoder[:K], U[:K], RHO
        output = None
        if start.output is not None:
            both = np.concatenate([u, start.output[None]])
            weighted = rho * start.output
            output = OutputOverlaps(w @ weighted, both @ weighted, both @ start.output)
        total = Overlaps(
            Q1=(w * (rho + start.noise)) @ w.T,
            R1=(u * rho) @ w.T,
            T1=(u * rho) @ u.T,
            T0=u @ u.T,
            Q0=w @ w.T,
            output=output,
        )
        network = odeae.Autoencoder(
            K, self.activation, bias=True, output_bias=start.output is not None
        )
        M = np.tril(total.T0) if start.truncated else total.T0
        return network, total, start.bias[:K], M


def cases(hidden, starts=STARTS, activations=tuple(FUNCTIONS)):
    return [
        Case(activation, K, start)
        for activation in activations
        for K in hidden
        for start in starts
        if not (K == 3 and activation == "tanh")  # refused
        and not (start == "output bias" and (K == 1 or activation == "linear"))
        and not (K == 1 and ("lign" in start or start in ("truncated", "opposite", "one off")))
    ]


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


# Averages over three ReLU fields take longer than to compile them well.
@functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 2})
def covariance(network, total, bias, M):
    return gradient_covariance(network, total, bias, M)


# ------------------------------------------------------------------------------------- samples


def sampled(case, z, xi):
    """Samples (n, K) of a: the residual that each neuron sees, along its own decoder."""
    K, start = case.hidden, STARTS[case.start]
    x = np.sqrt(RHO) * z
    g, slope = FUNCTIONS[case.activation](
        (x + np.sqrt(start.noise) * xi) @ start.encoder[:K].T + start.bias[:K]
    )
    if start.truncated:
        rest = x[:, None, :] - np.cumsum(g[:, :, None] * U[None, :K], axis=1)
        along = np.einsum("nki,ki->nk", rest, U[:K])
    else:
        along = (x - g @ U[:K] - (0.0 if start.output is None else start.output)) @ U[:K].T
    return slope * along


# three neurons are beyond the quadrature below
ALL_SAMPLED = [
    Case("erf", 3, "output bias"),
    Case("relu", 3, "truncated"),
    Case("relu", 3, "aligned"),
    Case("tanh", 2, "output bias"),
]


def moments(case):
    """Mean and standard error of a_k a_m."""
    batches, count = 80, 50_000
    rng, first, second = np.random.default_rng(0), 0.0, 0.0
    for _ in range(batches):
        a = sampled(case, *rng.standard_normal((2, count, len(RHO))))
        first = first + a.T @ a
        second = second + np.square(a).T @ np.square(a)
    n = batches * count
    return first / n, np.sqrt((second / n - (first / n) ** 2) / n)


@each(ALL_SAMPLED)
def test_agrees_with_samples(case):
    mean, error = moments(case)
    got = covariance(*case.arguments)
    assert_allclose(got, np.asarray(got).T, rtol=1e-12)
    assert np.all(np.abs(got - mean) < 5.0 * error), (np.asarray(got - mean) / error).round(1)


# ---------------------------------------------------------------------------------- quadrature

_NODES, _WEIGHTS = scipy.special.roots_legendre(40)
REACH = 10.0  # standard deviations


def panels(low, high, count, *splits):
    """Gauss–Legendre nodes and weights of [low, high] in panels, also split at `splits`."""
    edges = np.unique(np.clip([*np.linspace(low, high, count + 1), *splits], low, high))
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * _NODES).ravel(), (half * _WEIGHTS).ravel()


def by_scipy(case):
    """⟨a aᵀ⟩ of one or two neurons: ν given λ is Gaussian with mean B λ and covariance `left`."""
    network, total, bias, M = case.arguments
    Q, K = total.Q1, network.hidden
    shift = 0.0 if total.output is None else total.output.T0[:-1]
    size, axes = np.linalg.eigh(Q)
    kept = size > 1e-14 * size[-1]
    B = total.R1 @ (axes[:, kept] / size[kept]) @ axes[:, kept].T
    left = total.T1 - B @ total.R1.T

    def average(fields, weight):
        """Weighted sum over fields (nodes, K)."""
        g, slope = FUNCTIONS[case.activation](fields + bias)
        a = (fields @ B.T - g @ M.T - shift) * slope
        return (a.T * weight) @ a + left * ((slope.T * weight) @ slope)

    std = np.sqrt(np.diag(Q))
    if K == 1:
        x, weight = panels(-REACH * std[0], REACH * std[0], 100, -bias[0])
        return average(x[:, None], weight * scipy.stats.norm.pdf(x, scale=std[0]))

    slope = Q[0, 1] / Q[0, 0]
    rest = np.sqrt(max(Q[1, 1] - Q[0, 1] * slope, 0.0))
    tied = rest < 1e-9 * std[1]

    def given_first(x):
        y, weight = np.array([slope * x]), np.ones(1)
        if not tied:
            ends = slope * x - REACH * rest, slope * x + REACH * rest
            y, weight = panels(*ends, max(10, int(40 * rest)), -bias[1])
            weight = weight * scipy.stats.norm.pdf(y, slope * x, rest)
        fields = np.stack([np.full_like(y, x), y], axis=1)
        return average(fields, weight * scipy.stats.norm.pdf(x, scale=std[0]))

    reach = REACH * std[0]
    kinks = (-bias[1] + rest * np.arange(-6, 7, 2)) / slope
    splits = [-bias[0], *kinks, *np.linspace(-0.9, 0.9, 10) * reach]
    return scipy.integrate.quad_vec(
        given_first,
        -reach,
        reach,
        epsabs=1e-11,
        epsrel=1e-11,
        points=sorted({x for x in splits if abs(x) < reach}),
        limit=10_000,
    )[0]


@each(cases((1, 2)))
def test_agrees_with_scipys_quadrature(case):
    got, want = covariance(*case.arguments), by_scipy(case)
    # the nodes of a Quadrature promise 1e-8 for products of two, and here are four; a ReLU neuron
    # that is nearly aligned with another turns on within a thousandth of its field
    accuracy = 1e-6 if case.activation == "tanh" else 1e-8
    if (case.activation, case.start) == ("relu", "nearly aligned"):
        accuracy = 1e-5
    assert_allclose(got, want, rtol=0, atol=accuracy * max(1.0, np.diag(want).max()))


# -------------------------------------------------------------------- where formulas break down


@eqx.filter_jit
def encoder_slope(w, u, variances, network, total, bias, M):
    """Derivative of the sum of ⟨a aᵀ⟩ with respect to the encoder."""

    def value(w):
        moments = w @ variances @ w.T, u @ jnp.diag(RHO) @ w.T
        total_at = eqx.tree_at(lambda part: (part.Q1, part.R1), total, moments)
        return jnp.sum(gradient_covariance(network, total_at, bias, M))

    return jax.grad(value)(w)


@each(cases((2, 3), [start for start in STARTS if start != "output bias"]))
def test_is_a_finite_covariance_and_so_are_its_derivatives(case):
    network, total, bias, M = case.arguments
    got = covariance(network, total, bias, M)
    assert np.all(np.isfinite(got))
    assert np.linalg.eigvalsh(got)[0] > -1e-7 * max(1.0, np.trace(got))
    if case.hidden > 2:  # no other formulas than for two, and long to compile
        return
    start = STARTS[case.start]
    variances = jnp.diag(RHO + start.noise)
    rows = (jnp.asarray(x[: case.hidden]) for x in (start.encoder, U))
    assert np.all(np.isfinite(encoder_slope(*rows, variances, network, total, bias, M)))


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_of_fields_that_vanish_or_a_unit_that_is_off(activation):
    """λ = 0 leaves a = (ν − T0 g(b)) g'(b); a ReLU far below its kink learns nothing."""
    network, total, bias, M = Case(activation, 1, "biases").arguments
    none = 0.0 * total.R1
    still = eqx.tree_at(lambda part: (part.Q1, part.R1), total, (none, none))
    g, slope = FUNCTIONS[activation](bias[0])
    want = (total.T1 + (total.T0 * g) ** 2) * slope**2
    assert_allclose(covariance(network, still, bias, M), want, rtol=1e-9)
    off = covariance(network, total, np.array([-30.0]), M)
    assert np.isfinite(off)
    if activation == "relu":
        assert abs(off[0, 0]) < 1e-30


def test_of_small_relu_fields_at_the_kink():
    """Half of them are above it, however small they are: ⟨a²⟩ = T1/2 at b = 0, Q1 → 0."""
    network, total, _, M = Case("relu", 1, "biases").arguments
    for scale in (1e-4, 1e-8):
        small = eqx.tree_at(
            lambda part: (part.Q1, part.R1), total, (scale**2 * total.Q1, scale * total.R1)
        )
        got = covariance(network, small, np.zeros(1), M)
        assert_allclose(got, 0.5 * total.T1, rtol=100 * scale + 1e-9)


@pytest.mark.parametrize("activation", ["erf", "relu", "tanh"])
def test_neurons_may_be_permuted(activation):
    """Every entry is made on its own, by formulas that treat its neurons unequally."""
    K = 2 if activation == "tanh" else 3
    order = np.arange(K)[::-1].copy()
    network, total, bias, M = Case(activation, K, "biases").arguments
    moved = jax.tree.map(lambda x: x[order][:, order], total)
    got = covariance(network, moved, bias[order], M[order][:, order])
    want = covariance(network, total, bias, M)[order][:, order]
    assert_allclose(got, want, rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------ the curve

TIMES = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0])


def problem(dim, activation="linear", noise=None, spikes=(1.0,), **rates):
    """s² = D, K = 1; all rates are given, so that all problems compile to the same."""
    spectrum = odeae.Spectrum.spiked(list(spikes), dim)
    rule = odeae.SGD(**{"lr_encoder": 1.0, "lr_decoder": 1.0} | rates)
    network = odeae.Autoencoder(1, activation)
    return odeae.Problem(spectrum, network, rule, noise=dim if noise is None else noise)


def one_neuron():
    """w, u of the spike; the bulk's Σ w² of order one and Σ u²."""
    bulk = Modes(np.array([[0.4], [0.0]]), np.array([[0.0], [0.3]]))
    return State(Modes(np.array([[0.3]]), np.array([[0.2]])), bulk, np.zeros(1))


def by_hand(dim, lr_w=1.0, lr_u=1.0, decay=0.0, diffusion=True):
    """K = 1, linear, ρ̃ = 1, s² = D: spike w, u, Gram matrix of the bulk's rows, what noise made.

    a = ν − T0 λ, and the bulk has ρ̃ = 1/D on D − 1 modes.
    """
    rho = 1.0 / dim
    ww0, uu0 = 0.4**2, 0.3**2

    def totals(y):
        w, u, ww, wu, uu, made = y
        Q = 2.0 * w**2 + (rho + 1.0) * ww + made
        return Q, w * u + rho * wu, u**2 + rho * uu, u**2 + uu

    def rhs(t, y):
        w, u, ww, wu, uu, made = y
        Q, R, T1, T0 = totals(y)
        square = T1 - 2.0 * T0 * R + T0**2 * Q
        pull = lr_w * (rho + 1.0) * T0 + decay  # on the bulk's w
        fade = lr_u * Q + decay
        return [
            lr_w * (u - 2.0 * T0 * w) - decay * w,
            lr_u * (w - Q * u) - decay * u,
            2.0 * (lr_w * rho * wu - pull * ww),
            lr_w * rho * uu + lr_u * rho * ww - (pull + fade) * wu,
            2.0 * (lr_u * rho * wu - fade * uu),
            diffusion * lr_w**2 * square - 2.0 * (lr_w * T0 + decay) * made,
        ]

    start = [0.3, 0.2, ww0, 0.0, uu0, 0.0]
    y = scipy.integrate.solve_ivp(
        rhs, (0.0, TIMES[-1]), start, "DOP853", TIMES, rtol=1e-11, atol=1e-13
    ).y
    Q, R, T1, T0 = totals(y)
    trace = 1.0 + (dim - 1) / dim
    return {
        "Q1": Q,
        "R1": R,
        "T1": T1,
        "T0": T0,
        "error": 0.5 * trace - R + 0.5 * T0 * Q,
        "Q0": (y[0] ** 2 + y[2] + y[5]) / dim,
    }


@pytest.mark.parametrize(
    ("dim", "rates"),
    [
        (1000, {}),
        (1000, {"lr_encoder": 0.6, "lr_decoder": 1.4, "weight_decay": 0.05}),
        (10**9, {}),
    ],
)
@pytest.mark.parametrize("diffusion", [True, False])
def test_one_linear_neuron_by_hand(dim, rates, diffusion):
    p = problem(dim, **rates)
    got = odeae.predict(p, one_neuron(), TIMES, rtol=1e-9, diffusion=diffusion)
    options = dict(zip(("lr_w", "lr_u", "decay"), rates.values(), strict=False))
    for name, want in by_hand(dim, **options, diffusion=diffusion).items():
        assert_allclose(np.ravel(getattr(got, name)), want, rtol=0, atol=1e-6, err_msg=name)
    w, u = got.components.encoder[:, 0, 0], got.components.decoder[:, 0, 0]
    assert_allclose(got.error_clean - got.error, -0.5 * np.ravel(got.T0 * got.Q0) * dim, rtol=1e-9)
    assert np.all(np.isfinite(w * u))


def test_in_the_limit_the_bulk_is_two_numbers():
    """D → ∞: N = Σ w w of the bulk and T = Σ u u, dN = −2 T0 N + ⟨a²⟩, dT = −2 Q1 T."""

    def rhs(t, y):
        w, u, N, T = y
        Q, T0 = 2.0 * w**2 + N, u**2 + T
        square = u**2 - 2.0 * T0 * w * u + T0**2 * Q
        return [u - 2.0 * T0 * w, w - Q * u, -2.0 * T0 * N + square, -2.0 * Q * T]

    y = scipy.integrate.solve_ivp(
        rhs, (0.0, TIMES[-1]), [0.3, 0.2, 0.16, 0.09], "DOP853", TIMES, rtol=1e-11, atol=1e-13
    ).y
    got = odeae.predict(problem(10**9), one_neuron(), TIMES, rtol=1e-9, diffusion=True)
    assert_allclose(got.order_parameters.bulk.Q1[:, 0, 0], y[2], atol=1e-6)
    assert_allclose(got.order_parameters.bulk.T0[:, 0, 0], y[3], atol=1e-6)
    assert_allclose(got.components.encoder[:, 0, 0], y[0], atol=1e-6)
    assert y[2, -1] > 0.05  # the noise of the steps keeps it from dying out


def test_the_final_state_goes_on_with_the_noise_it_has(tmp_path):
    p, times = problem(10**9), TIMES / 2
    whole = odeae.predict(p, one_neuron(), TIMES, rtol=1e-9, diffusion=True)
    first = odeae.predict(p, one_neuron(), times, rtol=1e-9, diffusion=True)
    assert first.final.diffusion > 0.0
    first.save(tmp_path / "x.nc")
    final = odeae.load(tmp_path / "x.nc").final
    assert final.time == times[-1]
    second = odeae.predict(p, final, times[-1] + times, rtol=1e-9, diffusion=True)
    assert_allclose(second.Q1[-1], whole.Q1[-1], rtol=1e-7)
    with pytest.raises(ValueError, match=r"`state` must have no `diffusion`, got one: only"):
        odeae.predict(p, final, times)
    wide = eqx.tree_at(lambda s: s.diffusion, final, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"`diffusion` of shape \(1, 1\) .*, got \(2, 2\)"):
        odeae.predict(p, wide, times, diffusion=True)


@pytest.mark.parametrize("activation", ["linear", "erf"])
def test_changes_nothing_without_noise(activation):
    p = problem(1000, activation, noise=0.0)
    # Given, so that both take the same steps; with diffusion, as by default: one program.
    how = {"solver": diffrax.Tsit5(), "max_steps": EXPLICIT_STEPS}
    want, got = (odeae.predict(p, one_neuron(), TIMES, diffusion=on, **how) for on in (False, True))
    for name in ("error", "Q1", "R1", "T1", "T0", "Q0"):
        assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-12, atol=1e-14)


def test_a_frozen_encoder_makes_no_noise():
    p = problem(1000, "erf", lr_encoder=0.0)
    want, got = (odeae.predict(p, one_neuron(), TIMES, diffusion=on) for on in (False, True))
    assert_allclose(got.error, want.error, rtol=1e-10)


def test_noise_that_is_not_of_order_dim_adds_nothing_in_the_limit():
    """s² = 4 at D = 10⁹: the fields of the bulk gain s²/D × what the steps make."""
    p = problem(10**9, "erf", noise=4.0)
    want, got = (odeae.predict(p, one_neuron(), TIMES, diffusion=on) for on in (False, True))
    assert_allclose(got.error, want.error, atol=1e-7)


def test_grows_as_the_square_of_the_rate():
    """The noise's share of Q1, at the same lr × t, is proportional to lr for small rates."""
    shares = []
    for lr in (0.02, 0.01):
        p = problem(10**9, lr_encoder=lr, lr_decoder=lr)
        with_noise, without = (
            odeae.predict(p, one_neuron(), TIMES / 5.0 / lr, rtol=1e-9, diffusion=on).Q1[-1, 0, 0]
            for on in (True, False)
        )
        shares.append(float(with_noise - without))
    assert_allclose(shares[0] / shares[1], 2.0, rtol=0.05)


class Steep(AbstractActivation):
    """Twice erf, as somebody else would write it."""

    def __call__(self, x):
        return 2.0 * odeae.Erf()(x)

    def slope(self, x):
        return 2.0 * odeae.Erf().slope(x)

    def slopes(self, q, b):
        return tuple(2.0 * x for x in odeae.Erf().slopes(q, b))

    def mean(self, q, b):
        return 2.0 * odeae.Erf().mean(q, b)

    def pairs(self, p):
        return tuple(4.0 * x for x in odeae.Erf().pairs(p))


def test_an_activation_of_ones_own_is_refused_by_name():
    """It had the averages of ReLU before."""
    network = odeae.Autoencoder(2, Steep())
    problem = odeae.Problem(odeae.Spectrum.spiked([1.0, 0.6], dim=100), network, noise=100.0)
    with pytest.raises(ValueError, match=r"`diffusion` .* known for erf, .* got Steep; .*Quadratu"):
        odeae.predict(problem, odeae.random_state(problem), [1.0], diffusion=True)


@pytest.mark.slow
def test_an_activation_of_ones_own_has_the_curve_of_its_formulas():
    """2 g(λ) with decoder u/2 is g(λ) with u, at a decoder rate of a quarter and not in lanes."""
    spectrum, times = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim=1000), [0.0, 1.0, 500.0]
    erf = odeae.Problem(spectrum, odeae.Autoencoder(2))
    state = odeae.random_state(erf, seed=1)
    rule = odeae.SGD(lr_decoder=0.25)
    own = odeae.Problem(spectrum, odeae.Autoencoder(2, Steep()), rule)
    half = eqx.tree_at(lambda s: s.rows.decoder, state, replace_fn=lambda u: u / 2)
    assert_allclose(
        odeae.predict(own, half, times, rtol=1e-9).error,
        odeae.predict(erf, state, times, rtol=1e-9).error,
        rtol=1e-6,
    )


def test_a_variant_of_a_known_activation_is_refused():
    """It would inherit formulas that hold for erf alone."""
    with pytest.raises(TypeError, match=r"Erf can't be subclassed.*AbstractActivation.*Quadrature"):
        type("Other", (odeae.Erf,), {})


@pytest.mark.parametrize("activation", ["linear", pytest.param("erf", marks=pytest.mark.slow)])
def test_what_decays_stays_a_covariance(activation):
    """An absolute tolerance that is felt left variances of −1e-9 where weights decay to nothing."""
    network = odeae.Autoencoder(2, activation)
    rule = odeae.SGD(0.3, weight_decay=1.0)
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim=1000)
    problem = odeae.Problem(spectrum, network, rule, noise=100.0)
    state = odeae.random_state(problem, 0.5, 3.0, seed=2)
    times = np.linspace(0.0, 40.0, 41)
    curve = odeae.predict(problem, state, times, diffusion=True)
    assert_allclose(curve.final.diffusion, curve.final.diffusion.T, rtol=0, atol=0)
    total = curve.order_parameters.total()
    for Q in (total.Q1, total.Q0):
        variance = np.einsum("tkk->tk", Q)
        assert np.all(variance > 0.0)
        assert variance[-1].max() < 1e-20 * variance[0].max()
        size = np.sqrt(variance[:, :, None] * variance[:, None, :])
        assert np.linalg.eigvalsh(Q / size).min() > -1e-14
