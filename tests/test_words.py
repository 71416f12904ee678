"""Calls that can't be meant as they are: one line that says what to write."""

import inspect
import pickle

import plain
import pytest

import odeae
from odeae.words import explains_arguments

SETUP = """
import jax.numpy as jnp, numpy as np
import odeae
from odeae import *
spectrum, network = Spectrum.spiked([1.0, 0.5], dim=10), Autoencoder(2)
p = Problem(spectrum, network)
s = random_state(p)
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
    "ensemble(p, [1.0], n_runs=3)": "predict has no argument `n_runs`",
    "fixed_points(p, s, rtol=1e-6)": "no argument `rtol` .*`tol`",
}


@pytest.mark.parametrize("line", BAD)
def test_what_to_write_is_said_in_one_line(said, line):
    plain.named_in_one_line(said[line], BAD[line], kind="(Type|Value)Error")


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
