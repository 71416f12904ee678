"""float64 without side effects: what a plain script sees, with JAX as it comes."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

import odeae
from odeae import Autoencoder, Problem, Spectrum
from odeae.base.precision import as_float, in_float64, is_traced, to_numpy

MODULES = """
import importlib, pkgutil, odeae
for module in pkgutil.iter_modules(odeae.__path__):
    if module.name != "__main__":  # which is the shell
        importlib.import_module("odeae." + module.name)
"""


def test_importing_changes_no_setting_of_jax():
    script = f"""
import jax
before = dict(jax.config.values)
{MODULES}
after = dict(jax.config.values)
print([name for name in after if before.get(name) != after[name]], after["jax_enable_x64"])
"""
    assert plain.run(script).split("\n")[0] == "[] False"


def test_importing_the_package_does_not_wait_for_jax():
    assert plain.run("import odeae, sys; print('jax' in sys.modules)").strip() == "False"


SETUP = """
import jax, jax.numpy as jnp, numpy as np
from odeae import *
spectrum = Spectrum.spiked([1.0, 0.5], dim=10)
problem = Problem(spectrum, Autoencoder(2, "erf"))
state = random_state(problem)
W = np.linspace(0.0, 1.0, 20).reshape(2, 10)
"""


def test_concrete_results_are_numpy_float64_arrays():
    script = f"""
import json
{SETUP}
power = Spectrum.power_law(10**9, 1.2)
tied = Problem(spectrum, Autoencoder(2, tied=True, gain=1.3), SGD(lr=0.5))
with jax.enable_x64(True):
    theirs = jax.tree.map(jnp.asarray, (tied, random_state(tied)))
curve = predict(*theirs, [1.0])
results = {{
    "spectrum": spectrum, "power law": power, "PCA": power.pca_errors(3),
    "level": spectrum.pca_error(1), "from jax": Spectrum.from_eigenvalues(jnp.array([2.0, 1.0])),
    "random": state, "aligned": aligned_state(problem),
    "weights": state_from_weights(problem, W, jnp.asarray(W)),
    "drawn": draw_weights(problem, state), "error": problem.error(state),
    "drift": problem.drift(state), "order parameters": problem.order_parameters(state),
    "curve": (curve.error, curve.problem, curve.initial),
    "averages": Erf().averages(np.eye(2)), "cdf": bvn_cdf(0.1, 0.2, 0.3), "rates": SGD(lr=1 / 3).lr,
}}
kinds = {{
    name: sorted({{f"{{type(leaf).__module__}} {{leaf.dtype}}" for leaf in jax.tree.leaves(tree)}})
    for name, tree in results.items()
}}
print(json.dumps([kinds, float(SGD(lr=1 / 3).lr), float(problem.error(state)),
                  float(curve.error[0]), jax.config.jax_enable_x64]))
"""
    kinds, third, error, tied_error, x64 = json.loads(plain.run(script))
    for name, kind in kinds.items():
        assert kind == ["numpy float64"], name
    assert third == 1 / 3  # not its float32 rounding
    assert x64 is False

    from odeae import SGD, Autoencoder, Problem, Spectrum, predict, random_state

    problem = Problem(Spectrum.spiked([1.0, 0.5], dim=10), Autoencoder(2, "erf"))
    np.testing.assert_allclose(error, problem.error(random_state(problem)), rtol=1e-14)
    tied = Problem(problem.spectrum, Autoencoder(2, tied=True, gain=1.3), SGD(lr=0.5))
    want = predict(tied, random_state(tied), [1.0]).error[0]
    np.testing.assert_allclose(tied_error, want, rtol=1e-14)  # whatever arrays the user's are


TRACED = [
    "jax.jit(lambda lr: SGD(lr=lr).lr)(0.1)",
    "jax.vmap(lambda s: Spectrum.spiked([s], dim=5).trace)(np.ones(3))",
    "jax.grad(lambda r: Spectrum.from_eigenvalues(r, spikes=3).pca_error(1))(np.ones(3))",
    "jax.jit(lambda s: Spectrum.power_law(100, s).trace)(1.0)",
    "jax.jit(lambda v: Spectrum.marchenko_pastur(9, 9, v).trace)(1.0)",
    "jax.jit(lambda: spectrum.pca_errors(2))()",
    "jax.vmap(lambda seed: random_state(problem, seed=seed))(np.arange(2))",
    "jax.jit(lambda: random_state(problem))()",
    "jax.jit(lambda s: random_state(problem, encoder_std=s))(0.1)",
    "jax.jit(lambda a: aligned_state(problem, [a, a]))(0.1)",
    "jax.grad(lambda W: problem.error(state_from_weights(problem, W, W)))(W)",
    "jax.grad(problem.error)(state)",
    "jax.jit(lambda state: problem.drift(state))(state)",
    "jax.jit(Erf().averages)(np.eye(2))",
    "jax.grad(lambda state: predict(problem, state, [1.0]).error[0])(state)",
    "jax.jit(lambda: predict(problem, state, [1.0]).error)()",
]


@pytest.fixture(scope="module")
def said():
    lines = [*TRACED, "float(jax.jit(lambda: spectrum.trace)())", "jax.config.jax_enable_x64"]
    return plain.errors(SETUP, lines)


@pytest.mark.parametrize("line", TRACED)
def test_tracing_in_float32_is_one_clear_error(said, line):
    assert re.match(
        r'ValueError: odeae computes in float64.*jax\.config\.update\("jax_enable_x64", True\)',
        said[line],
    ), said[line]


def test_errors_leave_the_setting_alone_and_concrete_parts_alone(said):
    assert said["jax.config.jax_enable_x64"] == "no error, but False"
    assert said["float(jax.jit(lambda: spectrum.trace)())"].startswith("no error, but 2.2999")


# In this process x64 is on.


def test_concrete_stays_numpy_and_traced_stays_traced():
    assert isinstance(as_float(jnp.float32(0.5)), np.ndarray)
    assert as_float([1, 2]).dtype == np.float64
    seen = []

    @in_float64
    def double(x):
        seen.append(is_traced(x))
        return {"twice": 2 * jnp.asarray(x), "key": jax.random.key(0), "text": "kept"}

    result = double(np.float32(0.5))
    assert isinstance(result["twice"], np.ndarray)
    assert isinstance(result["key"], jax.Array)  # a PRNG key has no NumPy form
    assert result["text"] == "kept"
    jax.jit(lambda x: double(x)["twice"])(0.5)
    assert seen == [False, True]
    traced = jax.jit(lambda x: as_float(x))(jnp.float32(0.5))
    assert traced.dtype == np.float64


def test_to_numpy_leaves_tracers_alone():
    jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 0, to_numpy((x, x))))(1.0)


# JAX's checks, as a user may set them (for its generators see test_state)

CHOICES = {
    "disable_jit": jax.disable_jit,
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "transfer guard": lambda: jax.transfer_guard("disallow"),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "tracer leaks": jax.checking_leaks,
}


def _problem():
    problem = Problem(Spectrum.spiked([1.0, 0.6, 0.3], dim=1000), Autoencoder(2))
    return problem, odeae.random_state(problem, seed=1)


def _swept(lr):
    problem, state = _problem()
    return Problem(problem.spectrum, problem.autoencoder, odeae.SGD(lr)), state


def _curve_and_what_it_derives():
    problem, state = _problem()
    curve = odeae.predict(problem, state, [0.0, 1.0, 500.0])
    return curve.error, curve.excess, curve.overlaps, problem.error(state), problem.drift(state)


def _spent_budget():  # NaN after the end is data
    curve = odeae.predict(*_problem(), [0.0, 1.0, 500.0], max_steps=20, throw=False)
    return curve.error, int(curve.status)


COMPUTATIONS = {
    "curve": _curve_and_what_it_derives,
    "spent budget": _spent_budget,
}
SLOW_COMPUTATIONS = {
    "implicit": lambda: odeae.predict(*_problem(), [0.0, 5.0], solver=odeae.Rodas4()).error,
    "ensemble": lambda: odeae.ensemble(_problem()[0], [0.0, 5.0], 2).error,
    "fixed points": lambda: odeae.fixed_points(*_problem()).eigenvalues,
    "sweep": lambda: odeae.sweep(_swept, {"lr": [0.5, 1.0]}, [0.0, 5.0]).error.values,
    "densities": lambda: odeae.predict(*_problem(), [0.0, 5.0], densities=True).error,
    "simulation": lambda: odeae.simulate(*_problem(), [0.0, 0.05], runs=1).error,
    "aligned": lambda: odeae.predict_aligned(_problem()[0], [0.0, 5.0]).error,
    "quadrature": lambda: odeae.Quadrature(jnp.sin).averages(np.eye(2)),
}


def _same_under_all_choices(compute):
    usual = compute()
    for choice, chosen in CHOICES.items():
        with chosen():
            got = compute()
        jax.tree.map(lambda a, b, c=choice: np.testing.assert_array_equal(a, b, c), got, usual)


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_settings_of_jax_change_nothing(name):
    _same_under_all_choices(COMPUTATIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_COMPUTATIONS)
def test_settings_of_jax_change_nothing_anywhere(name):
    _same_under_all_choices(SLOW_COMPUTATIONS[name])


OTHER_NUMBERS = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "whole numbers": lambda x: np.round(10 * x).astype(int),
    "long": lambda x: x.astype(np.longdouble),
    "objects": lambda x: x.astype(object),
    "JAX's float32": lambda x: jnp.asarray(x, jnp.float32),
}


@pytest.mark.parametrize("kind", OTHER_NUMBERS)
def test_states_of_other_numbers_are_taken_as_they_are(kind):
    problem, state = _problem()
    given = jax.tree.map(OTHER_NUMBERS[kind], state)
    same = jax.tree.map(lambda x: np.asarray(x, np.float64), given)
    times = [0.0, 1.0, 500.0]
    curves = [odeae.predict(problem, s, times, throw=False).error for s in (given, same)]
    np.testing.assert_array_equal(*curves)
    assert problem.error(given) == problem.error(same) == curves[0][0]
    assert problem.drift(given).spikes.decoder.dtype == np.float64


@pytest.mark.parametrize("kind", [str, complex])
def test_states_of_other_things_are_refused(kind):
    problem, state = _problem()
    given = jax.tree.map(lambda x: x.astype(kind), state)
    with pytest.raises(ValueError, match=r"`state\.\S+` must hold real numbers, got array") as said:
        problem.error(given)
    assert "\n" not in str(said.value)
