"""An activation, a rule and a schedule of a user, as docs/extending.md writes them."""

import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import odeae

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def own():
    """The page as a module, so that its classes can be imported again."""
    own = types.ModuleType("own_page")
    sys.modules["own_page"] = own
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec("\n".join(blocks).replace("print(", "_ = ("), own.__dict__)
    yield own
    del sys.modules["own_page"]


def test_an_activation_is_that_of_its_function(own):
    network = odeae.Autoencoder(2, odeae.Quadrature(jax.numpy.sin), bias=True)
    Q, b = np.array([[0.7, 0.2], [0.2, 0.4]]), np.array([0.3, -0.5])
    for got, want in zip(own.Sine().averages(Q, b), network.activation.averages(Q, b), strict=True):
        assert_allclose(got, want, atol=1e-7)
    same = odeae.predict(own.same, own.state, own.theory.times)
    assert_allclose(same.error, own.theory.error, rtol=1e-6)
    assert odeae.compare(own.theory, own.runs).verdict in ("noise", "finite size")


def test_an_activation_works_everywhere(own, tmp_path):
    def build(lr):
        rule = odeae.SGD(lr_encoder=lr)
        return odeae.Problem(own.spectrum, odeae.Autoencoder(2, own.Sine()), rule), own.state

    table = odeae.sweep(build, {"lr": [0.5, 1.0]}, own.theory.times)
    assert_allclose(table.error[1], own.theory.error, rtol=1e-5)
    own.theory.save(tmp_path / "own.nc")
    assert_allclose(odeae.load(tmp_path / "own.nc").error, own.theory.error)
    assert "Sine, K=2" in repr(own.theory)
    decayed = odeae.Problem(own.spectrum, own.problem.autoencoder, odeae.SGD(weight_decay=0.1))
    end = odeae.predict(decayed, own.state, [100.0]).final
    assert odeae.fixed_points(decayed, end).status == odeae.FixedPointStatus.CONVERGED
    assert odeae.residual(own.problem, own.theory.final) > 0.0
    with pytest.raises(ValueError, match=r"averages over four fields, .* got Sine; for K ≤ 2"):
        odeae.predict(own.problem, own.state, [1.0], diffusion=True)


def test_a_rule_has_drift_and_step(own):
    times = np.linspace(0.0, 8.0, 9)
    start = odeae.random_state(own.alone, encoder_std=0.3, decoder_std=0.3)
    theory = odeae.predict(own.alone, start, times)
    assert int(theory.status) == 0
    runs = odeae.simulate(own.alone, start, times, runs=8)
    gap = (runs.error - theory.error).mean(axis=0)
    spread = runs.error.std(axis=0, ddof=1) / 8**0.5
    assert np.all(np.abs(gap) < 5.0 * spread + 0.02 * theory.error[0])
    assert "Alone" in repr(theory)
    with pytest.raises(ValueError, match="untied"):
        odeae.Problem(own.spectrum, odeae.Autoencoder(2, tied=True), own.Alone())


def test_a_schedule_is_that_of_its_function(own):
    def factor(t):
        return jax.numpy.where((t >= 3.0) & (t < 5.0), 0.1, 1.0)

    factor.jumps = (3.0, 5.0)
    same = odeae.Problem(own.spectrum, odeae.Autoencoder(2), odeae.SGD(schedule=factor))
    times = np.linspace(0.0, 10.0, 11)
    got, want = (odeae.predict(p, own.state, times).error for p in (own.pulsed, same))
    assert_allclose(got, want, rtol=1e-6)
    plain = odeae.Problem(own.spectrum, odeae.Autoencoder(2))
    assert_allclose(got[-1], odeae.predict(plain, own.state, [10.0 - 1.8]).error[-1], rtol=1e-5)
