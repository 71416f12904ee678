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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_drift_is_minus_the_gradient_of_the_error(name):
    # §4: dw = −∂e/∂w, db = −∂e/∂b, and for v = √D u: dv = −D ∂e/∂v. κ pulls on W and V alone.
    rho, W, V, b = network()
    rates, decay, h = (0.7, 1.3, 0.9), 0.2, 1e-5
    drift = reference.drift(name, rho, W, V, b, rates, decay)
    scale = (rates[0], rates[1] * len(rho), rates[2])
    for i, (part, pull) in enumerate(zip((W, V, b), (decay * W, decay * V, 0 * b), strict=True)):
        gradient = np.empty_like(part)
        for j in np.ndindex(part.shape):
            ends = []
            for step in (h, -h):
                moved = [W.copy(), V.copy(), b.copy()]
                moved[i][j] += step
                ends.append(reference.error(name, rho, *moved))
            gradient[j] = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(drift[i] + pull, -scale[i] * gradient, atol=2e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_drift_and_error_are_means_over_samples_at_finite_dimension(name):
    # D = 6: a term O(1/D) missing from the drift would be hundreds of standard errors.
    rho, W, V, b = network(seed=1)
    D, batch, batches = len(rho), 20_000, 40
    rng = np.random.default_rng(2)
    means = []
    for _ in range(batches):
        x = rng.standard_normal((batch, D)) * np.sqrt(rho)
        g, slope = ACTIVATIONS[name](x @ W.T / np.sqrt(D) + b)
        delta = x - g @ V
        back = (delta @ V.T / D) * slope
        loss = np.sum(delta**2, axis=1).mean() / (2 * D)
        dW, dV = back.T @ x / np.sqrt(D) / batch, g.T @ delta / batch
        means.append(np.concatenate([dW.ravel(), dV.ravel(), back.mean(axis=0), [loss]]))
    parts = reference.drift(name, rho, W, V, b, rates=(1.0, 1.0, 1.0))
    expected = np.concatenate([p.ravel() for p in parts] + [[reference.error(name, rho, W, V, b)]])
    standard_error = np.std(means, axis=0, ddof=1) / np.sqrt(batches)
    assert np.all(np.abs(np.mean(means, axis=0) - expected) < 5 * standard_error)
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
    # §7 with w = u = a on a spike ρ̃ = 1: da/dt = a (1 − a²), so a² is logistic. The other modes
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
