"""What is measured of simulated runs, in the theory's terms."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.precision import Real
from odeae.base.status import Status
from odeae.model.autoencoder import Autoencoder, Weights
from odeae.model.errors import generalisation_error
from odeae.model.problem import Problem, leading_spikes
from odeae.model.state import HUGE, Components, Modes, State, order_parameters
from odeae.results.checkpoint import Checkpoint
from odeae.results.trajectory import Trajectory
from odeae.simulation.sources import TEST_NOISE, GaussianInputs, RealInputs, normals_of


def meter(
    problem: Problem, source: GaussianInputs | RealInputs, seed: int, basis: Real | None
) -> Callable[[int, Weights], tuple]:
    """A function that measures the weights of all runs at a step: (step, biases, values).

    `basis`: the eigenvectors, if the weights are in input space.
    """
    spectrum = problem.spectrum
    order = np.arange(spectrum.dim) if spectrum.order is None else spectrum.order
    leading, rho = leading_spikes(problem), spectrum.eigenvalues() / spectrum.dim
    inputs = dataclasses.replace(problem.inputs, rho=rho[order], trace=rho.sum())
    deviation, test = np.sqrt(problem.noise), (source.test, source.test)
    if deviation > 0:
        key, runs = np.asarray([seed, TEST_NOISE, 0]), np.arange(len(source.test))
        corruption = normals_of(key, runs, source.test.shape[1:])
        test = (source.test, source.test + deviation * corruption)

    def measured(step: int, now: Weights) -> tuple:
        values = _measure(problem.autoencoder, now, inputs, order, leading, basis, test)
        return step, now.bias, values

    return measured


@eqx.filter_jit
def _measure(network: Autoencoder, weights, inputs, order, leading, basis, test):
    """Order parameters, error, held-out error and rows of the leading spikes of every run.

    `inputs` have a row for each mode, `order` says which eigenvalue, as given, each mode is.
    """
    dim = inputs.rho.shape[0]

    def one(weights, target, given):
        W, V, b, v0 = weights
        if basis is not None:
            W, V = W @ basis, V @ basis
            v0 = None if v0 is None else v0 @ basis
        rows = Modes(W.T, V.T / np.sqrt(dim), None if v0 is None else v0 / np.sqrt(dim))
        rows = jax.tree.map(lambda x: x[order], rows)
        split = order_parameters(State(rows=rows, n_spikes=inputs.n_spikes, bias=b), inputs)
        error = generalisation_error(network, split.total(), b, inputs.trace)
        gap = target - network.output(weights, given)
        test = jnp.mean(jnp.sum(jnp.square(gap), axis=1)) / (2.0 * dim)
        along = None
        if leading is not None:
            along = Components(rows.encoder[leading], rows.decoder[leading])
        return split, error, test, along

    return jax.lax.map(lambda args: one(*args), (weights, *test))


def curve_of(
    problem: Problem,
    saves: list[tuple],
    weights: Checkpoint,
    initial: State | None,
    first: int,
    settings: str,
) -> Trajectory:
    """The curve of what was saved (step, bias, values of `_measure`), NaN where a run has ended."""
    steps, biases, values = zip(*saves, strict=True)
    split, error, test, along = jax.tree.map(lambda *parts: np.stack(parts, axis=1), *values)
    bias, used = np.stack(biases, axis=1), np.asarray(steps) / problem.spectrum.dim
    total = split.total()
    squares = [problem.spectrum.dim * total.Q0, total.T0]
    size = np.max([np.einsum("rtkk->rtk", x).max(axis=-1) for x in squares], axis=0)
    followed = size < HUGE**2  # False for NaN
    resolved = np.isfinite(error) & np.isfinite(test) & followed
    good = np.logical_and.accumulate(resolved, axis=1)
    ended, last = good.all(axis=1), np.maximum(good.sum(axis=1) - 1, 0)
    # the weights of a run may be fine where the averages of its activation are not resolved
    stop = np.arange(len(test)), np.argmin(good, axis=1)
    fine = followed[stop] & np.isfinite(test[stop])
    status = np.where(fine, Status.UNRESOLVED, Status.DIVERGED)
    split, error, test, bias, along = jax.tree.map(
        lambda a: np.where(good.reshape(good.shape + (1,) * (a.ndim - 2)), a, np.nan),
        (split, error, test, bias, along),
    )
    return Trajectory(
        used,
        error,
        split,
        bias,
        np.where(ended, Status.OK, status),
        used[last],
        problem,
        test_error=test,
        components=along,
        weights=weights,
        initial=initial,
        source=weights.source,
        settings=settings,
        steps=np.asarray(steps)[last] - first,
    )
