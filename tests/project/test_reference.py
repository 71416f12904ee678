"""The reference route against what it does not use: samples, closed forms, −∇e."""

import numpy as np
import pytest
import reference
from scipy.special import erf

ACTIVATIONS = {
    "erf": lambda y: (erf(y / np.sqrt(2)), np.sqrt(2 / np.pi) * np.exp(-(y**2) / 2)),
    "relu": lambda y: (np.maximum(y, 0), (y > 0) * 1.0),
    "linear": lambda y: (y, np.ones_like(y)),
}


def network(seed=0, K=2, D=6, bias=0.4):
    rng = np.random.default_rng(seed)
    rho = np.sort(rng.uniform(0.3, 2.0, D))[::-1] * np.r_[D, np.ones(D - 1)]
    W, V = rng.standard_normal((2, K, D))
    return rho, 0.8 * W, 0.7 * V, bias * rng.standard_normal(K)


RATES, DECAY = (0.7, 1.3, 0.9), 0.2  # encoder, decoder (also of v_0, and of tied weights), bias


def output_bias(D=6):
    return 0.5 * np.random.default_rng(10).standard_normal(D)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("output", [None, output_bias()], ids=["", "output"])
@pytest.mark.parametrize("tied", [None, "full"])
def test_drift_is_minus_the_gradient_of_the_error(name, noise, output, tied):
    # 4: dw = −∂e/∂w, db = −∂e/∂b, and for v = √D u: dv = −D ∂e/∂v, which for tied weights goes
    # through w = s v/√D as well. κ pulls on the weights and v_0 alone.
    rho, W, V, b = network()
    D, h = len(rho), 1e-5
    keywords = {"tied": tied, "noise": noise} | ({"gain": 1.4} if tied else {})
    parts = {"W": W, "V": V, "b": b, "output": output}
    scale = dict(zip(parts, (RATES[0], RATES[1] * D, RATES[2], RATES[1] * D), strict=True))

    def call(function, W, V, b, output, *rates):
        return function(name, rho, W, V, b, *rates, output=output, **keywords)

    drift = dict(zip(parts, call(reference.drift, *parts.values(), RATES, DECAY), strict=False))
    assert len(drift) == (3 if output is None else 4)
    if tied:
        np.testing.assert_allclose(drift["W"], 1.4 * drift["V"] / np.sqrt(D), rtol=1e-13)
        parts["W"] = None
    for key, part in parts.items():
        if part is None:
            continue
        gradient = np.empty_like(part)
        for j in np.ndindex(part.shape):
            ends = []
            for step in (h, -h):
                moved = part.copy()
                moved[j] += step
                ends.append(call(reference.error, **parts | {key: moved}))
            gradient[j] = (ends[0] - ends[1]) / (2 * h)
        pull = 0 if key == "b" else DECAY * part
        np.testing.assert_allclose(drift[key] + pull, -scale[key] * gradient, atol=4e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rule", ["sgd", "truncated"])
def test_paths_of_a_tied_gradient_are_those_of_its_untied_network(name, rule):
    # The chain rule at w = s v/√D: s √D times the encoder's drift, and the decoder's as it is.
    rho, _, V, b = network(K=3)
    gain, root = 1.4, np.sqrt(len(rho))
    keywords = {"rule": rule, "noise": 0.7, "output": output_bias() if rule == "sgd" else None}
    arguments = name, rho, gain * V / root, V, b, (1.0, 1.0, 1.0)
    dW, dV, *others = reference.drift(*arguments, **keywords)
    for tied, expected in (
        ("encoder", gain * root * dW),
        ("decoder", dV),
        ("full", gain * root * dW + dV),
    ):
        _, got, *same = reference.drift(*arguments, **keywords, tied=tied, gain=gain)
        np.testing.assert_allclose(got, expected, atol=1e-13)
        np.testing.assert_allclose(np.concatenate(same), np.concatenate(others), atol=1e-13)


# The rules as one would code them: D × the mean change of (W, V, b, v_0) over a batch of targets x,
# of inputs y, and of the hidden neurons' outputs and slopes there.
def sgd(x, y, g, slope, W, V, v_0):
    n, D = x.shape
    delta = x - g @ V - v_0
    back = (delta @ V.T / D) * slope
    dW = RATES[0] * back.T @ y / np.sqrt(D) / n - DECAY * W
    dV = RATES[1] * g.T @ delta / n - DECAY * V
    return dW, dV, RATES[2] * back.mean(axis=0), RATES[1] * delta.mean(axis=0) - DECAY * v_0


def truncated(x, y, g, slope, W, V, v_0):
    D = x.shape[1]
    dW, dV, db = -DECAY * W, -DECAY * V, np.zeros(len(V))
    for k in range(len(V)):
        delta = x - g[:, : k + 1] @ V[: k + 1]
        back = (delta @ V[k] / D) * slope[:, k]
        dW[k] += RATES[0] * np.mean(back[:, None] * y, axis=0) / np.sqrt(D)
        dV[k] += RATES[1] * np.mean(g[:, k, None] * delta, axis=0)
        db[k] = RATES[2] * np.mean(back)
    return dW, dV, db


def tied(encoder, decoder, gain):
    def step(x, y, g, slope, W, V, v_0):
        n, D = x.shape
        delta = x - g @ V - v_0
        back = (delta @ V.T / D) * slope
        dV = RATES[1] * (encoder * gain * back.T @ y + decoder * g.T @ delta) / n - DECAY * V
        db, dv_0 = RATES[2] * back.mean(axis=0), RATES[1] * delta.mean(axis=0) - DECAY * v_0
        return gain * dV / np.sqrt(D), dV, db, dv_0

    return step


def pca(number_seen):  # Oja, Sanger and Hebb: neuron k subtracts what its first neurons explain
    def step(x, y, g, slope, W, V, v_0):
        D = x.shape[1]
        z = y @ V.T / D
        dV = -DECAY * V
        for k in range(len(V)):
            seen = number_seen(k)
            rest = x - z[:, :seen] @ V[:seen]
            dV[k] += RATES[1] * np.mean(z[:, k, None] * rest, axis=0)
        return dV / np.sqrt(D), dV, np.zeros(len(V))

    return step


STEPS = {
    "sgd": (sgd, {}),
    "noise": (sgd, {"noise": 0.8}),
    "output": (sgd, {"noise": 0.8, "output": output_bias()}),
    "truncated": (truncated, {"rule": "truncated", "noise": 0.8}),
    "full": (tied(1, 1, 1.4), {"tied": "full", "gain": 1.4, "noise": 0.8}),
    "encoder": (tied(1, 0, 1.4), {"tied": "encoder", "gain": 1.4, "output": output_bias()}),
    "decoder": (tied(0, 1, 1.4), {"tied": "decoder", "gain": 1.4, "noise": 0.8}),
    "oja": (pca(lambda k: 3), {"rule": "oja", "noise": 0.8}),
    "sanger": (pca(lambda k: k + 1), {"rule": "sanger", "noise": 0.8}),
    "hebb": (pca(lambda k: 0), {"rule": "hebb", "noise": 0.8}),
}
LINEAR = ("oja", "sanger", "hebb")


@pytest.mark.parametrize(
    ("rule", "name"),
    [(r, n) for r in STEPS for n in ACTIVATIONS if n == "linear" or r not in LINEAR],
)
def test_drift_and_errors_are_means_over_samples_at_finite_dimension(rule, name):
    # D = 6: a term O(1/D) missing from the drift would be tens of standard errors.
    step, keywords = STEPS[rule]
    rho, W, V, b = network(seed=1, K=3, bias=0.0 if rule in LINEAR else 0.4)
    D, noise, batch, batches = len(rho), keywords.get("noise", 0.0), 20_000, 40
    if "gain" in keywords or rule in LINEAR:
        W = keywords.get("gain", 1.0) * V / np.sqrt(D)
    output = keywords.get("output")
    v_0 = np.zeros(D) if output is None else output
    rng = np.random.default_rng(2)
    means = []
    for _ in range(batches):
        x = rng.standard_normal((batch, D)) * np.sqrt(rho)
        y = x + np.sqrt(noise) * rng.standard_normal((batch, D))
        field, nu = y @ W.T / np.sqrt(D), x @ V.T / D
        g, slope = ACTIVATIONS[name](field + b)
        clean, _ = ACTIVATIONS[name](x @ W.T / np.sqrt(D) + b)
        losses = [np.mean((x - h @ V - v_0) ** 2) / 2 for h in (g, clean)]
        overlaps = [field.T @ field, nu.T @ field, nu.T @ nu]
        change = step(x, y, g, slope, W, V, v_0)[: 3 if output is None else 4]
        means.append(np.concatenate([*map(np.ravel, change), losses, np.ravel(overlaps) / batch]))

    arguments = name, rho, None if "gain" in keywords else W, V, b
    parts = reference.drift(*arguments, RATES, DECAY, **keywords)
    errors = [reference.error(*arguments, **keywords | {"noise": s}) for s in (noise, 0.0)]
    overlaps = reference.order_parameters(rho, W, V, noise)[:3]
    expected = np.concatenate([*map(np.ravel, parts), errors, np.ravel(overlaps)])
    standard_error = np.std(means, axis=0, ddof=1) / np.sqrt(batches)
    off = np.abs(np.mean(means, axis=0) - expected)
    assert np.all(off < 5 * standard_error + 1e-14)
    assert standard_error.max() < 0.02


@pytest.mark.parametrize("name", ["erf", "relu"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 2.0])
def test_overlap_has_its_closed_form_without_biases(name, scale):
    rho, W, V, _ = network(seed=3, K=3)
    Q1 = scale**2 * reference.order_parameters(rho, W, V)[0]
    _, (overlap, *_) = reference._moments(name, Q1, np.zeros(3))
    q = np.diag(Q1)
    if name == "erf":
        exact = 2 / np.pi * np.arcsin(Q1 / np.sqrt(np.outer(1 + q, 1 + q)))
    else:
        angle = np.arccos(np.minimum(Q1 / np.sqrt(np.outer(q, q)), 1.0))
        exact = np.sin(angle) + (np.pi - angle) * np.cos(angle)
        exact *= np.sqrt(np.outer(q, q)) / (2 * np.pi)
    np.testing.assert_allclose(overlap, exact, rtol=1e-12, atol=1e-15)


def test_integrate_follows_the_exact_linear_aligned_mode():
    # 7 with w = u = a on a spike ρ̃ = 1: da/dt = a (1 − a²), so a² is logistic. The other modes
    # carry no weight, so they keep their ½ρ̃ of error.
    D, a, times = 20, 0.1, np.linspace(0.0, 8.0, 9)
    rho = np.r_[D, np.ones(D - 1)]
    W = np.zeros((1, D))
    W[0, 0] = a
    out = reference.integrate("linear", rho, W, np.sqrt(D) * W, np.zeros(1), times)
    square = 1 / (1 + (1 / a**2 - 1) * np.exp(-2 * times))
    for key in ("Q1", "R1", "T1", "T0"):
        np.testing.assert_allclose(out[key][:, 0, 0], square, rtol=1e-9)
    bulk = (D - 1) / (2 * D)
    np.testing.assert_allclose(out["error"], (1 - square) ** 2 / 2 + bulk, atol=1e-10)


def test_schedule_is_a_change_of_time_and_its_jumps_are_restarts():
    rho, W, V, b = network(seed=4, D=8)
    keywords = {"noise": 0.5}
    one = {"output": output_bias(8)} | keywords
    times = np.array([1.0, 2.0, 3.0])
    for convention in (np.less, np.less_equal):  # either value at the jump itself
        calls = []

        def late(t, before=convention, calls=calls):
            calls.append(t)
            return 1.0 if before(t, 1.5) else 0.3

        whole = reference.integrate(
            "erf", rho, W, V, b, times, RATES, DECAY, schedule=late, jumps=(9.0, 1.5), **one
        )
        first = reference.integrate("erf", rho, W, V, b, [1.0, 1.5], RATES, DECAY, **one)
        state = [first[key][-1] for key in ("W", "V", "bias")]
        slow, two = 0.3 * np.array(RATES), {"output": first["output"][-1]} | keywords
        second = reference.integrate("erf", rho, *state, [0.5, 1.5], slow, DECAY, **two)
        assert whole.keys() == first.keys() > {"error_clean", "output"}
        for key in whole:
            by_hand = np.concatenate([first[key][:1], second[key]])
            np.testing.assert_allclose(whole[key], by_hand, atol=1e-9)
        assert len(calls) < 1000  # 780; a step that sees both values makes it 1900 to 3200

    *state, v_0 = (whole[key][-1] for key in ("W", "V", "bias", "output"))
    for key, noise in (("error", 0.5), ("error_clean", 0.0)):
        assert whole[key][-1] == reference.error("erf", rho, *state, noise=noise, output=v_0)
    assert np.all(whole["Q1"][-1] == reference.order_parameters(rho, *state[:2], 0.5)[0])

    # Without decay only ∫ schedule dt counts: 1.5 up to the jump.
    def growing(t):
        return 0.5 + t / 1.5 if t < 1.5 else 0.2

    scheduled = reference.integrate(
        "erf", rho, W, V, b, times, RATES, schedule=growing, jumps=(1.5,), **one
    )
    clock = np.array([0.5 + 1 / 3, 1.5 + 0.1, 1.5 + 0.3])
    plain = reference.integrate("erf", rho, W, V, b, clock, RATES, **one)
    np.testing.assert_allclose(scheduled["error"], plain["error"], atol=1e-10)
    assert np.ptp(plain["error"]) > 0.01


@pytest.mark.parametrize(("one", "other"), [("sgd", "oja"), ("truncated", "sanger")])
def test_tied_linear_decoder_follows_oja_and_sanger(one, other):
    rho, _, V, _ = network(seed=5, K=3, D=10)
    arguments = "linear", rho, None, V, np.zeros(3), [1.0, 4.0], RATES, 0.1
    plain = reference.integrate(*arguments, rule=one, tied="decoder", noise=0.5)
    pca = reference.integrate(*arguments, rule=other, noise=0.5)
    for key in plain:
        np.testing.assert_allclose(plain[key], pca[key], atol=1e-9)
    assert not np.allclose(pca["V"][0], pca["V"][1], atol=0.1)


def test_unsupported_combinations_are_refused():
    rho, W, V, b = network()
    for name, bias, keywords in (
        ("erf", 0 * b, {"rule": "oja"}),
        ("linear", b, {"rule": "hebb"}),
        ("linear", 0 * b, {"rule": "sanger", "tied": "full"}),
        ("linear", 0 * b, {"rule": "oja", "gain": 2.0}),
        ("erf", b, {"gain": 2.0}),
        ("erf", b, {"rule": "truncated", "output": output_bias()}),
    ):
        with pytest.raises(ValueError, match=r"linear networks|a gain|no output bias"):
            reference.drift(name, rho, W, V, bias, **keywords)
