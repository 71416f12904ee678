"""Calls that can't be meant as they are: one line that says what to write."""

import inspect
import pickle

import jax
import numpy as np
import plain
import pytest

import odeae
from odeae.base.messages import explains_arguments
from odeae.base.times import save_times

SETUP = """
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
import odeae
from odeae.data.inputs import read_array
from odeae import *
spectrum, network = Spectrum.spiked([1.0, 0.5], dim=10), Autoencoder(2)
p = Problem(spectrum, network)
s = random_state(p)
tied = Problem(spectrum, Autoencoder(2, tied=True, gain=3.7))
rough = jax.tree.map(lambda x: np.asarray(x, np.float32), random_state(tied))
wrong = eqx.tree_at(lambda s: s.rows.encoder, rough, rough.rows.encoder.copy())
wrong.rows.encoder[2:] *= np.float32(1 + 1e-5)
omega, long = np.diag([3.0, 2.0, 1.0]), np.ones((40, 12))
huge, class_without = 10**400, type("Odd", (), {"__repr__": lambda self: 1 / 0})
under = lambda fn: Problem(spectrum, network, SGD(schedule=fn))
"""
BAD = {
    "Autoencoder(K=3)": r"Autoencoder has no argument `K` \(did you mean `hidden`\?\)",
    "Autoencoder(3, gian=2.0)": r"no argument `gian` \(did you mean `gain`\?\)",
    "Autoencoder()": r"Autoencoder lacks `hidden`: write Autoencoder\(hidden, activation",
    "Autoencoder('erf', 3)": r"`hidden`, .*must come first, got 'erf'; write Autoencoder\(hidden, ",
    "Autoencoder(3, odeae.ReLU)": r"got the class ReLU; write ReLU\(\)",
    "Autoencoder(3, odeae.Quadrature)": r"got the class Quadrature; write Quadrature\(fn\)",
    "Autoencoder(3, jnp.tanh)": r"for a function use odeae.Quadrature\(fn\)",
    "Quadrature(jnp.tanh, qmax=3)": "no argument `qmax` .*`q_max`",
    "SGD(learning_rate=1)": r"SGD has no argument `learning_rate` .*`lr`.*it takes lr, lr_encoder",
    "SGD(0.1, lr=0.2)": "SGD: multiple values for argument 'lr'",
    "Hebb(decay=1)": "no argument `decay` .*`weight_decay`",
    "StepSchedule(((5, .1),))": r"lacks `factors`: write StepSchedule\(times, factors\)",
    "CosineSchedule(T=5)": r"no argument `T` \(did you mean `end`\?\)",
    "random_state(p, std=.1)": "no argument `std` .*`encoder_std` or `decoder_std`",
    "random_state(s)": "`problem` must be an odeae Problem, got State; the order is problem, state",
    "aligned_state(p, 1, 2, 3)": "aligned_state: too many .*it takes problem, encoder, decoder",
    "state_from_weights(p, np.eye(2))": r"state_from_weights lacks `V`: write state_from_weights\(",
    "Problem(network, spectrum)": r"`spectrum` .*got Autoencoder; write Problem\(spectrum, auto",
    "Problem(spectrum, network, SGD)": r"`rule` must be .*got the class SGD, write SGD\(\)",
    "Problem(spectrum, network, lr=0.1)": "Problem has no argument `lr`",
    "predict(s, p, [1.0])": "`problem` must be .*got State; the order is problem, state, times",
    "predict(p, s, 10)": r"`times` must be a list .*number 10; write np.linspace\(0, 10, 101\)",
    "predict(p, s, end=10)": r"no argument `end` \(did you mean `times`\?\)",
    "predict(p, s)": "predict lacks `times`",
    "predict_aligned(p, [1.0], tolerance=1e-6)": "no argument `tolerance` .*`rtol`",
    "simulate(p, s, [1.0], n_runs=3)": r"no argument `n_runs` \(did you mean `runs`\?\)",
    "compare(p)": r"compare lacks `runs`: write compare\(theory, runs, on\)",
    "ensemble(p, [1.0], n_runs=3)": "ensemble has no argument `n_runs` .*`members`",
    "fixed_points(p, s, rtol=1e-6)": "no argument `rtol` .*`tol`",
    # what is no activation, problem, file or list
    "J2(None, np.eye(2))": "`activation` must be .*got None",
    "I2(np.tanh, np.eye(2))": "`activation` must be .*got <ufunc 'tanh'>; for a function use",
    "I21(Erf, np.eye(2))": r"got the class Erf; write Erf\(\)",
    "I22('errf', np.eye(2))": "unknown `activation` 'errf': .*did you mean 'erf'",
    "I3(long, np.eye(3))": "`activation` must be a name or an activation .*got array",
    "bvn_cdf('x', 0.0, 0.0)": "`h` must hold real numbers, got 'x'",
    "bvn_cdf(np.ones(2), np.ones(3), 0.0)": r"one, got `h` \(2,\), `k` \(3,\), `r` \(\)",
    "residual(None, s)": "`problem` must be an odeae Problem, got NoneType",
    "load(1)": "`path` must be the name of a file, got 1",
    "load(b'x.nc')": "`path` must be the name of a file, got b'x.nc'",
    "load('a\\0b')": "`path` must be the name of a file",
    "load('x' * 5000)": r"`path` is too long: 'x+\.\.\.",
    "read_array(1.5)": "`path` must be the name of a file, got 1.5",
    "simulate(p, s, [1.0], checkpoint=3)": "`checkpoint` must be the name of a file, got 3",
    "Spectrum([1.0], [1.0], 11)": "`multiplicity` must be a list of whole numbers, got 11",
    "Spectrum([1.0], [1.0], np.array(11))": "`multiplicity` must be a list of whole numbers, got",
    "Spectrum([1.0, 0.5], order=3)": r"`order` must have shape \(2,\), got a single number",
    "odeae.landscape.critical_point(omega, long[:, :1], 2)": "`components` must be a whole number",
    "odeae.landscape.descend(omega, [1], 1, 0.1, 3)": r"`pair` must be \(j, k\) .*got 3",
    "odeae.landscape.descend(omega, [1], 1, 0.1, ('a', 0))": "`pair` must be a whole number",
    "fit_power_law(StepSchedule([1.0], [0.5]))": "`curve` must be a Trajectory .*StepSchedule",
    # words to choose from
    "odeae.landscape.tied_flow(omega, omega, np.ones(4))": "unknown `gradient` array.*expected one",
    "SGD(gradient=long)": "unknown `gradient` array.*: expected one of full, encoder, decoder",
    "SGD(gradient={})": "unknown `gradient` {}: expected one of",
    # numbers beyond those of double precision
    "CosineSchedule(end=huge)": "`end` must be within the numbers of double .*got 10*[.]{3}",
    "CosineSchedule(end=10**5000)": "`end` must be within the numbers of double precision",
    "random_state(p, encoder_std=huge)": "`encoder_std` must be within the numbers of double",
    "log_times(10, count=-huge)": "`count` must be at least 2, got -10*[.]{3}",
    "predict(p, s, huge)": "`times` must be within the numbers of double precision",
    "predict(p, s, [0.0, 5e-324, 1e-323])": "`times` must end at 1e-290 .*: the steps of a solver",
    "predict_aligned(p, [1e-300])": "`times` must end at 1e-290 at least .*got 1e-300",
    # whatever is given, its name is short
    "SGD(schedule=long)": r"`schedule` must be None or a function .*got array\(.{50,60}\.\.\.",
    "Autoencoder(2, s)": r"`activation` must be .*got State\(.{50,60}\.\.\.",
    "random_state(p, encoder_std=class_without())": "must hold real numbers, got Odd without",
    "predict(p, s, [1.0], solver=long)": r"`solver` must be .*got array.*\.\.\.",
    "save_all('x.nc', {'a' * 999: s})": r"save_all takes odeae Trajectories, .*'a+\.\.\.",
    "StepSchedule(np.arange(99.0), np.ones(99))": r"increase, got array.*\.\.\.",
    "odeae.landscape.critical_points(np.eye(30), 2)": r"different: .*\[1.0, 1.0.*\.\.\.",
    # functions that JAX can't follow
    "Quadrature(np.tanh)": "`fn` must be .*TracerArrayConversionError: write it with jax.numpy",
    "predict(under(lambda t: np.exp(-t)), s, [1.0])": "`schedule` .*write it with jax.numpy",
    "predict(under(lambda t: 1.0 if t < 3 else 0.0), s, [1.0])": "jnp.where instead of `if`",
    "predict(under(lambda t: [][t].x), s, [1.0])": "calling it raised TypeError: ",
    # flags
    "predict(p, s, [1.0], throw=1)": "`throw` must be True or False, got 1",
    "predict(p, s, [1.0], densities='no')": "`densities` must be True or False, got 'no'",
    "predict(p, s, [1.0], diffusion=np.ones(2))": "`diffusion` must be True or False",
    "predict(p, s, [1.0], progress=None)": "`progress` must be True or False, got None",
    "predict_aligned(p, [1.0], throw=np.ones(2))": "`throw` must be True or False",
    "ensemble(p, [1.0], diffusion=2)": "`diffusion` must be True or False, got 2",
    "simulate(p, s, [1.0], progress=np.ones(3))": "`progress` must be True or False",
    "simulate(p, s, [1.0], flatten=1)": "`flatten` must be True or False, got 1",
    "save_all('x.nc', {}, overwrite='no')": "`overwrite` must be True or False, got 'no'",
    # tied weights, in the numbers that they are given in
    "tied.error(wrong)": "`bulk.encoder` = gain × `bulk.decoder`",
}


@pytest.mark.parametrize("line", BAD)
def test_what_to_write_is_said_in_one_line(said, line):
    plain.named_in_one_line(said[line], BAD[line], kind="(Type|Value)Error")
    assert len(said[line]) < 400


def test_a_mistake_inside_is_left_to_python():
    @explains_arguments
    def call(function):
        return function(1)

    with pytest.raises(TypeError, match=r"<lambda>\(\) takes 0 positional arguments"):
        call(lambda: None)


def test_signatures_and_pickles_are_those_of_the_functions():
    assert list(inspect.signature(odeae.Autoencoder).parameters)[:2] == ["hidden", "activation"]
    assert list(inspect.signature(odeae.random_state).parameters)[:2] == ["problem", "encoder_std"]
    assert pickle.loads(pickle.dumps(odeae.predict)) is odeae.predict
    assert pickle.loads(pickle.dumps(odeae.Autoencoder(3))).hidden == 3


def test_tied_weights_are_compared_as_precisely_as_they_are_given():
    spectrum = odeae.Spectrum.spiked([1.0, 0.5], dim=10)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2, tied=True, gain=3.7))
    state = odeae.random_state(problem)
    for dtype, size in ((np.float32, 1e-6), (np.float16, 1e-2)):
        rough = jax.tree.map(lambda x, kind=dtype: np.asarray(x, kind), state)
        np.testing.assert_allclose(problem.error(rough), problem.error(state), rtol=size)
        W, V = odeae.draw_weights(problem, state)[:2]
        odeae.state_from_weights(problem, W.astype(dtype), V.astype(dtype))
        wrong = (1.0 + 20 * np.finfo(dtype).eps) * W
        with pytest.raises(ValueError, match="`W` must be None for tied weights"):
            odeae.state_from_weights(problem, wrong.astype(dtype), V.astype(dtype))


def test_times_may_be_tiny_beside_the_last_one():
    times = [0.0, 5e-324, 1e-290]
    assert save_times(times).tolist() == times
