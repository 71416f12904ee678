"""Every learning rule and network: its step, its drift, and what the paper says it learns."""

import dataclasses

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
from odeae.model.layout import columns_of, rows_of

pytestmark = pytest.mark.sampled

HIDDEN, DIM = 3, 30
TIMES = np.array([0.0, 0.5, 2.0, 6.0, 15.0])
# Three spikes, seven bulk modes on their own, and 20 equal ones, which fall into one bin.
RHO = np.concatenate(
    [DIM * np.array([1.0, 0.6, 0.3]), np.linspace(1.6, 1.05, 7), np.full(DIM - 10, 0.7)]
)
SPECTRUM = odeae.Spectrum.from_eigenvalues(RHO, spikes=3)
RNG = np.random.default_rng(1)
W, V = 0.3 * RNG.standard_normal((2, HIDDEN, DIM))
BIAS, OUTPUT = np.array([0.3, -0.4, 0.1]), 0.5 * RNG.standard_normal(DIM)
FUNCTIONS = {
    "erf": lambda x: jax.scipy.special.erf(x / np.sqrt(2.0)),
    "relu": jax.nn.relu,
    "linear": lambda x: x,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One rule on one network, and the keywords of the reference route."""

    rule: str = "SGD"
    activation: str = "erf"
    tied: bool = False
    bias: bool = False
    output_bias: bool = False
    gain: float = 1.0
    noise: float = 0.0
    options: tuple = ()

    @property
    def problem(self):
        parts = {"tied": self.tied, "bias": self.bias, "output_bias": self.output_bias}
        network = odeae.Autoencoder(HIDDEN, self.activation, gain=self.gain, **parts)
        rule = getattr(odeae, self.rule)(**dict(self.options))
        return odeae.Problem(SPECTRUM, network, rule, noise=self.noise)

    @property
    def state(self):
        return odeae.state_from_weights(
            self.problem,
            None if self.tied else W,
            V,
            BIAS if self.bias else None,
            OUTPUT if self.output_bias else None,
        )

    @property
    def reference(self):
        """Arguments of `reference.integrate`."""
        options = dict(self.options)
        rule = "truncated" if options.get("truncated") else self.rule.lower()
        lr = options.get("lr", 1.0)
        part = {name: options.get(f"lr_{name}", lr) for name in ("encoder", "decoder", "bias")}
        if not self.bias:
            part["bias"] = 0.0
        tied = None
        if self.tied:
            tied = options.get("gradient", "full") if self.rule == "SGD" else "decoder"
        return {
            "W": None if self.tied else W,
            "V": V,
            "b": BIAS if self.bias else np.zeros(HIDDEN),
            "rates": tuple(part.values()),
            "decay": options.get("weight_decay", 0.0),
            "rule": rule,
            "tied": tied,
            "gain": self.gain,
            "noise": self.noise,
            "output": OUTPUT if self.output_bias else None,
        }


def options(**values):
    return tuple(values.items())


PARTS = options(lr_encoder=0.7, lr_decoder=1.3, lr_bias=0.4, weight_decay=0.05)
SGD_CASES = {
    "plain": Case(options=PARTS, bias=True),
    "relu, output bias": Case(activation="relu", bias=True, output_bias=True, options=PARTS),
    "output bias alone": Case(activation="relu", output_bias=True),
    "denoising": Case(noise=2.0, options=PARTS),
    "relu, denoising, output bias": Case(
        activation="relu", bias=True, output_bias=True, noise=3.0, options=PARTS
    ),
    "tied": Case(tied=True, gain=1.4, options=options(lr=0.7, weight_decay=0.05)),
    "tied, all": Case(
        activation="relu",
        tied=True,
        gain=0.8,
        bias=True,
        output_bias=True,
        noise=1.5,
        options=options(lr=0.7, lr_bias=0.3, weight_decay=0.05),
    ),
    "tied linear": Case(activation="linear", tied=True, bias=True, output_bias=True),
}
OTHER_CASES = {
    "tied, encoder": Case(tied=True, gain=1.4, options=options(gradient="encoder", lr=0.7)),
    "tied, encoder, biases": Case(
        activation="relu",
        tied=True,
        bias=True,
        output_bias=True,
        options=options(gradient="encoder", lr=0.7, lr_bias=0.3, weight_decay=0.05),
    ),
    "tied, decoder": Case(
        tied=True, bias=True, options=options(gradient="decoder", weight_decay=0.05)
    ),
    "truncated": Case(bias=True, options=(*PARTS, ("truncated", True))),
    "truncated relu, denoising": Case(
        activation="relu", noise=2.0, options=options(truncated=True)
    ),
    "Oja": Case("Oja", "linear", tied=True, noise=1.0, options=options(lr=0.7)),
    "Sanger": Case("Sanger", "linear", tied=True, options=options(weight_decay=0.05)),
    "Hebb": Case("Hebb", "linear", tied=True, noise=2.0, options=options(weight_decay=1.2)),
}
CASES = SGD_CASES | OTHER_CASES


def cases(some=CASES, slow=()):
    """Every case, those named in `slow` only at the full size."""
    each = [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, case in some.items()
    ]
    return pytest.mark.parametrize("case", each)


# ------------------------------------------------------------------------------ finite-D steps


def loss_of(case, x, corrupted):
    """L = ‖x − x̂‖²/(2D) of the weights that are trained: (W, V, b, v0), W ignored if tied."""

    def loss(W, V, b, v0):
        if case.tied:
            W = case.gain * V / jnp.sqrt(DIM)
        hidden = FUNCTIONS[case.activation](W @ corrupted / jnp.sqrt(DIM) + b)
        return jnp.sum((x - hidden @ V - v0) ** 2) / (2 * DIM)

    return loss


def inputs():
    rng = np.random.default_rng(5)
    return 2.0 * rng.standard_normal((2, DIM))


def one_step(case, x, corrupted):
    network = case.problem.autoencoder
    start = (case.gain * V / np.sqrt(DIM) if case.tied else W, V, BIAS * case.bias)
    weights = odeae.Weights(*start, OUTPUT if case.output_bias else None)
    return weights, case.problem.rule.update(network, weights, x, corrupted)


@cases(SGD_CASES)
def test_a_step_goes_down_the_gradient_of_the_sampled_loss(case):
    """−η_v ∂L/∂v, −(η_w/D) ∂L/∂w, −(η_b/D) ∂L/∂b, and decay −κ/D, but not of hidden biases."""
    x, corrupted = inputs()
    (w, v, b, v0), got = one_step(case, x, corrupted)
    v0 = np.zeros(DIM) if v0 is None else v0
    dW, dV, db, dv0 = jax.grad(loss_of(case, x, corrupted), argnums=(0, 1, 2, 3))(w, v, b, v0)
    args = case.reference
    (lr_w, lr_v, lr_b), decay = args["rates"], args["decay"]
    want = [v - lr_v * dV - decay / DIM * v, b - lr_b / DIM * db]
    if case.tied:
        want.append(case.gain * want[0] / np.sqrt(DIM))
    else:
        want.append(w - lr_w / DIM * dW - decay / DIM * w)
    for part, value in zip((got.decoder, got.bias, got.encoder), want, strict=True):
        assert_allclose(part, value, rtol=1e-10, atol=1e-14)
    if case.output_bias:
        assert_allclose(got.output_bias, v0 - lr_v * dv0 - decay / DIM * v0, rtol=1e-10)
    else:
        assert got.output_bias is None


@pytest.mark.parametrize("path", ["encoder", "decoder"])
def test_a_tied_step_along_one_path(path):
    """The other appearance of the weights counts as a constant."""
    case, (x, corrupted) = OTHER_CASES[f"tied, {path}"], inputs()

    def loss(V, b):
        fixed = jax.lax.stop_gradient(V)
        W, out = (V, fixed) if path == "encoder" else (fixed, V)
        hidden = FUNCTIONS["erf"](case.gain * W @ corrupted / DIM + b)
        return jnp.sum((x - hidden @ out) ** 2) / (2 * DIM)

    (_, v, b, _), got = one_step(case, x, corrupted)
    dV, db = jax.grad(loss, argnums=(0, 1))(v, b)
    args = case.reference
    decay = args["decay"] / DIM
    assert_allclose(got.decoder, v - args["rates"][1] * dV - decay * v, rtol=1e-10, atol=1e-14)
    assert_allclose(got.bias, b - args["rates"][2] / DIM * db, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["truncated", "truncated relu, denoising"])
def test_a_truncated_step_is_each_neurons_own_gradient(name):
    """Neuron k goes down the loss of the network of neurons 0 … k."""
    case, (x, corrupted) = OTHER_CASES[name], inputs()
    (w, v, b, _), got = one_step(case, x, corrupted)
    args = case.reference
    (lr_w, lr_v, lr_b), decay = args["rates"], args["decay"] / DIM
    for k in range(HIDDEN):

        def loss(W, V, b, n=k + 1):
            hidden = FUNCTIONS[case.activation](W[:n] @ corrupted / jnp.sqrt(DIM) + b[:n])
            return jnp.sum((x - hidden @ V[:n]) ** 2) / (2 * DIM)

        dW, dV, db = jax.grad(loss, argnums=(0, 1, 2))(w, v, b)
        for part, old, rate, d, pull in (
            (got.encoder, w, lr_w / DIM, dW, decay),
            (got.decoder, v, lr_v, dV, decay),
            (got.bias, b, lr_b / DIM, db, 0.0),
        ):
            assert_allclose(part[k], (old - rate * d - pull * old)[k], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["Oja", "Sanger", "Hebb"])
def test_steps_of_the_named_rules(name):
    """v_k += (η/D) y_k (x − Σ_a y_a v_a) over all a, over a ≤ k, over none; y = V x_in/D."""
    case, (x, corrupted) = OTHER_CASES[name], inputs()
    (_, v, _, _), got = one_step(case, x, corrupted)
    y = v @ corrupted / DIM
    args = case.reference
    for k in range(HIDDEN):
        seen = {"Oja": range(HIDDEN), "Sanger": range(k + 1), "Hebb": ()}[name]
        rest = x - sum((y[a] * v[a] for a in seen), start=np.zeros(DIM))
        want = v[k] + (args["rates"][1] * y[k] * rest - args["decay"] * v[k]) / DIM
        assert_allclose(got.decoder[k], want, rtol=1e-10, atol=1e-14)
    assert_allclose(got.encoder, got.decoder / np.sqrt(DIM), rtol=1e-14)


# ---------------------------------------------------------------------------------- the drift


@cases({k: c for k, c in SGD_CASES.items() if k != "plain"})
def test_the_drift_is_minus_the_gradient_of_the_error(case):
    rates = case.reference["rates"]
    decay = case.reference["decay"]
    p, state = case.problem, case.state
    if case.tied:  # one vector per neuron: its row is what varies

        def error(columns, bias):
            rows = rows_of(p.autoencoder, columns)
            return p.error(odeae.State(rows=rows, n_spikes=3, bias=bias))

        columns = columns_of(p.autoencoder, state.rows)
        d_columns, db = jax.grad(error, argnums=(0, 1))(jnp.asarray(columns), state.bias)
        drift = p.drift(state)
        got = columns_of(p.autoencoder, drift.rows)
        assert_allclose(got, -rates[1] * d_columns - decay * columns, atol=1e-10)
        assert_allclose(drift.bias, -rates[2] * db, atol=1e-10)
        assert_allclose(drift.spikes.encoder, case.gain * drift.spikes.decoder, atol=1e-14)
        return
    gradient, drift = jax.grad(p.error)(state), p.drift(state)
    for part in ("spikes", "bulk"):
        old, d, moved = (getattr(x, part) for x in (state, gradient, drift))
        assert_allclose(moved.encoder, -rates[0] * d.encoder - decay * old.encoder, atol=1e-10)
        assert_allclose(moved.decoder, -rates[1] * d.decoder - decay * old.decoder, atol=1e-10)
        if case.output_bias:
            assert_allclose(moved.output, -rates[1] * d.output - decay * old.output, atol=1e-10)
    assert_allclose(drift.bias, -rates[2] * gradient.bias, atol=1e-10)


@cases(slow=("tied, decoder", "tied, encoder, biases"))
def test_agrees_with_the_integration_of_all_weights(case):
    got = odeae.predict(case.problem, case.state, TIMES, rtol=1e-9)
    exact = reference.integrate(case.activation, RHO, times=TIMES, **case.reference)
    for name in ("error", "error_clean", "Q1", "R1", "T1", "T0", "bias"):
        assert_allclose(getattr(got, name), exact[name], rtol=0, atol=1e-7, err_msg=name)
    if case.output_bias:
        end, output = exact["V"][-1], exact["output"][-1]
        have = got.order_parameters.total().output
        both = np.concatenate([end, output[None]])
        assert_allclose(have.T0[-1], both @ output / DIM, atol=1e-7)
        assert_allclose(have.T1[-1], both @ (RHO * output) / DIM**2, atol=1e-7)
        assert_allclose(have.R1[-1], exact["W"][-1] @ (RHO * output) / DIM**1.5, atol=1e-7)


def test_output_bias_of_units_with_another_function():
    """tanh has a mean only by quadrature; a sampled error is the second route."""
    rng = np.random.default_rng(0)
    case = Case(activation="tanh", bias=True, output_bias=True, noise=1.0)
    x = rng.standard_normal((200_000, DIM)) * np.sqrt(RHO)
    given = x + rng.standard_normal(x.shape)
    rest = x - np.tanh(given @ W.T / np.sqrt(DIM) + BIAS) @ V - OUTPUT
    samples = np.sum(rest**2, axis=1) / (2 * DIM)
    gap = case.problem.error(case.state) - samples.mean()
    assert abs(gap) < 4.0 * samples.std() / np.sqrt(len(samples))


# -------------------------------------------------------------------------------- symmetries


@cases({k: c for k, c in CASES.items() if "truncated" not in k and k != "Sanger"})
def test_neurons_may_be_permuted(case):
    order = np.array([2, 0, 1])
    moved = eqx.tree_at(
        lambda s: (s.rows.encoder, s.rows.decoder, s.bias),
        case.state,
        replace_fn=lambda x: x[..., order],
    )
    want, got = case.problem.drift(case.state), case.problem.drift(moved)
    assert_allclose(got.spikes.decoder, want.spikes.decoder[:, order], atol=1e-13)
    assert_allclose(got.bulk.encoder, want.bulk.encoder[:, order], atol=1e-13)
    assert_allclose(got.bias, want.bias[order], atol=1e-13)
    assert_allclose(case.problem.error(moved), case.problem.error(case.state), rtol=1e-13)


@pytest.mark.parametrize("name", ["truncated", "Sanger"])
def test_neurons_of_a_truncated_rule_may_not_be_permuted(name):
    case, order = CASES[name], np.array([2, 0, 1])
    moved = eqx.tree_at(
        lambda s: (s.rows.encoder, s.rows.decoder, s.bias),
        case.state,
        replace_fn=lambda x: x[..., order],
    )
    want, got = case.problem.drift(case.state), case.problem.drift(moved)
    assert np.abs(got.spikes.decoder - want.spikes.decoder[:, order]).max() > 1e-3


@cases({k: c for k, c in CASES.items() if c.activation != "relu"})
def test_neurons_of_an_odd_activation_may_change_sign(case):
    sign = np.array([-1.0, 1.0, -1.0])
    moved = eqx.tree_at(
        lambda s: (s.rows.encoder, s.rows.decoder, s.bias),
        case.state,
        replace_fn=lambda x: x * (sign if x.ndim == 1 else sign[None, :]),
    )
    want, got = case.problem.drift(case.state), case.problem.drift(moved)
    assert_allclose(got.spikes.encoder, sign[None, :] * want.spikes.encoder, atol=1e-13)
    assert_allclose(got.bulk.decoder, sign[None, :] * want.bulk.decoder, atol=1e-13)
    assert_allclose(got.bias, sign * want.bias, atol=1e-13)


@cases()
def test_a_common_rate_and_decay_only_rescale_time(case):
    scaled = {"lr": 1.0} | dict(case.options)
    scaled = {
        name: 3.0 * value if name.startswith("lr") or name == "weight_decay" else value
        for name, value in scaled.items()
    }
    faster = dataclasses.replace(case, options=tuple(scaled.items()))
    want, got = case.problem.drift(case.state), faster.problem.drift(case.state)
    assert_allclose(ravel_pytree(got)[0], 3.0 * ravel_pytree(want)[0], rtol=1e-12)


def test_tied_linear_sgd_along_the_decoder_is_ojas_rule():
    oja = CASES["Oja"]
    sgd = dataclasses.replace(oja, rule="SGD", options=options(lr=0.7, gradient="decoder"))
    want, got = (odeae.predict(c.problem, c.state, TIMES) for c in (oja, sgd))
    assert_allclose(got.error, want.error, rtol=1e-12)
    # and one more step of finite size
    x, corrupted = inputs()
    for a, b in zip(
        one_step(oja, x, corrupted)[1][:2], one_step(sgd, x, corrupted)[1][:2], strict=True
    ):
        assert_allclose(a, b, rtol=1e-13)


# ------------------------------------------------------------------- what the paper finds


def cosines(rule, activation, tied):
    """|cos| of encoders (within the spikes) and decoders with the components, and the excess."""
    spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], 10**6)
    network = odeae.Autoencoder(3, activation, tied=tied)
    p = odeae.Problem(spectrum, network, rule)
    end = odeae.predict(p, odeae.random_state(p, decoder_std=0.1), [0.0, 1e3])
    overlaps = end.overlaps
    return (
        np.abs(overlaps.decoder[-1]),
        np.abs(overlaps.encoder_within[-1]),
        end.excess[-1],
        overlaps.subspace_decoder[-1],
    )


@pytest.mark.parametrize(
    ("truncated", "plain_rule", "activation", "tied"),
    [
        (odeae.SGD(truncated=True), odeae.SGD(), "erf", False),
        (odeae.Sanger(), odeae.Oja(), "linear", True),
    ],
    ids=["truncated erf", "Sanger"],
)
def test_truncation_finds_the_components_and_plain_sgd_their_span(
    truncated, plain_rule, activation, tied
):
    others = ~np.eye(3, dtype=bool)
    decoder, encoder, excess, span = cosines(truncated, activation, tied)
    for values in (decoder, encoder):
        assert np.all(np.diag(values) > 0.99)
        assert np.all(values[others] < 0.1)
    rotated, _, same, same_span = cosines(plain_rule, activation, tied)
    assert np.max(rotated[others]) > 0.3  # another basis …
    assert min(span, same_span) > 0.999  # … of the same space
    assert abs(excess - same) < 0.1 * same + 1e-9


@pytest.mark.parametrize(
    "hidden", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
def test_relu_networks_learn_half_then_all_but_one_then_all_components(hidden):
    """Without biases rank K/2, with trained ones rank K − 1, with an output bias rank K."""
    spikes = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3][:hidden]
    spectrum = odeae.Spectrum.spiked(spikes, 10**6, bulk=1e-9)
    found = []
    for parts in ({}, {"bias": True}, {"bias": True, "output_bias": True}):
        p = odeae.Problem(spectrum, odeae.Autoencoder(hidden, "relu", **parts))
        # Of its own choice it would change to another in the last, and compile that too.
        end = odeae.predict(
            p, odeae.random_state(p), [3e3], max_steps=10**6, solver=diffrax.Tsit5()
        )
        found.append(end.error[-1])
    half, trained, output = found
    levels = spectrum.pca_errors(hidden)
    assert 0.8 * levels[hidden // 2] < half < levels[hidden // 2]
    assert abs(trained - levels[hidden - 1]) < 0.25 * levels[hidden - 1]
    assert 0.0 < output - levels[hidden] < 1e-3


# ----------------------------------------------------------------------------- bad arguments

SETUP = """
import jax
import numpy as np
import odeae
from odeae import *
s = Spectrum.spiked([1.0, 0.6], 20)
linear = Autoencoder(2, "linear", tied=True)
tied = Problem(s, Autoencoder(2, tied=True))
state = random_state(tied)
plain = Problem(s, Autoencoder(2))
start, ones = random_state(plain), np.ones((2, 20))
def problem(rule=None, noise=0.0, **network):
    return Problem(s, Autoencoder(2, **network), rule, noise=noise)
def scheduled(schedule):
    return predict(problem(SGD(schedule=schedule)), start, [0.0, 2.0])
"""

BAD = {
    "problem(SGD(truncated=True), tied=True)": "`truncated` SGD is for untied .*Sanger",
    "problem(SGD(truncated=True), output_bias=True)": "`truncated` SGD can't train an `output_b",
    "problem(SGD(lr_encoder=1.0), tied=True)": "`lr_encoder` must not be given for tied .*`lr`",
    "problem(SGD(lr_decoder=0.0), tied=True)": "`lr_decoder` must not be given for tied",
    "random_state(tied, encoder_std=0.1)": "`encoder_std` must not be given for tied",
    "random_state(tied, 0.1)": "`encoder_std` must not be given for tied",
    "aligned_state(tied, encoder=1.0)": "`encoder` must not be given for tied",
    "problem(SGD(gradient='decoder'))": '`gradient` "decoder" is for tied weights.*lr_encoder=0',
    "SGD(gradient='both')": "unknown `gradient` 'both': expected one of full, encoder, decoder",
    "SGD(truncated=1)": "`truncated` must be True or False, got 1",
    "problem(Oja())": 'Oja\'s rule .* autoencoder needs activation="linear", tied=True$',
    "problem(Oja(), activation='linear')": "Oja's rule .* the autoencoder needs tied=True$",
    "problem(Sanger(), activation='linear', tied=True, gain=2.0)": "Sanger's .* gain=1.0",
    "problem(Hebb(), activation='relu', tied=True)": 'Hebb\'s rule .* activation="linear"',
    "problem(Oja(), activation='linear', tied=True, bias=True)": "without biases.*bias=False",
    "problem(Hebb(), activation='linear', tied=True, output_bias=True)": "output_bias=False",
    "Oja(lr=0.0)": "`lr` must be positive, got 0",
    "Hebb(weight_decay=-1.0)": "`weight_decay` must be zero or positive, got -1",
    "Sanger(lr='a')": "`lr` must hold real numbers, got 'a'",
    "Autoencoder(2, tied=True, gain=0.0)": "`gain` must be positive, got 0",
    "Autoencoder(2, tied=True, gain=-1.0)": "`gain` must be positive, got -1",
    "Autoencoder(2, gain=2.0)": "`gain` .* needs tied=True",
    "Autoencoder(2, tied='yes')": "`tied` must be True or False, got 'yes'",
    "Autoencoder(2, output_bias=0.5)": "`output_bias` must be True or False, got 0.5",
    "problem(noise=-1.0)": "`noise` must be zero or positive, got -1",
    "problem(noise=np.nan)": "`noise` must be finite, got nan",
    "problem(noise=[1.0, 2.0])": r"`noise` must be a single number, got shape \(2,\)",
    "StepSchedule([1.0, 2.0], [0.5, -0.1])": "`factors` must be zero or positive, got -0.1",
    "StepSchedule([2.0, 1.0], [0.5, 0.1])": "`times` must be positive and increase",
    "StepSchedule([1.0], [0.5, 0.1])": r"`factors` must have shape \(1,\), got shape \(2,\)",
    "StepSchedule([], [])": "`times` must hold at least one time",
    "CosineSchedule(end=0.0)": "`end` must be positive, got 0",
    "CosineSchedule(end=1.0, final=-0.1)": "`final` must be zero or positive, got -0.1",
    "PowerLawSchedule(-1.0)": "`exponent` must be zero or positive, got -1",
    "SGD(schedule=0.5)": "`schedule` must be None or a function of t.*got 0.5",
    "scheduled(lambda t: 1.0 - t)": "`schedule` must be zero or positive and .*, got -.* at t=1",
    "simulate(problem(SGD(schedule=lambda t: 1.0 - t)), start, [2.0])": "`schedule` .* at t=1",
    "scheduled(lambda t: float('nan'))": "`schedule` must be zero or positive and finite, got nan",
    "scheduled(lambda t: np.ones(2))": r"`schedule` must return a single number, got shape \(2,\)",
    "scheduled(lambda t: 1 if t < 1 else 0)": "`schedule` must be a JAX function .*Tracer",
    "scheduled(CosineSchedule)": "`schedule` must be None or a function of t.*got <class",
    "state_from_weights(tied, ones, ones)": "`W` must be None for tied",
    "state_from_weights(plain, None, ones)": "`W` must be given, got None",
    "state_from_weights(plain, ones, ones, None, ones[0])": "`output_bias` must be None .*=True",
    "state_from_weights(problem(output_bias=True), ones, ones, None, [1])": "shape .20,., got",
    "predict(plain, state, [1.0])": r"`state` must have `bulk.encoder` of shape \(4, 2\)",
    "predict(tied, start, [1.0])": r"`bulk.encoder` of shape \(2, 2\)",
    "predict(tied, State(start.spikes, state.bulk, state.bias), [1])": "= gain × `spikes.decoder`",
    "predict(problem(output_bias=True), start, [1.0])": r"`spikes.output` of shape",
    "simulate(tied, None, [1.0], weights=(ones, ones))": "`W` must be None",
    "predict(tied, state, [1.0], diffusion=True)": "`diffusion` is for untied weights",
    "predict(Problem(s, Autoencoder(3, 'tanh')), state, [1.0], diffusion=True)": "`state` must ha",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_combinations_are_refused_in_one_line(said, line):
    plain.named_in_one_line(said[line], BAD[line])
