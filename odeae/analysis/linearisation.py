"""The drift linearised about a point: its Jacobian, its coordinates and its eigenvalues."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.precision import Real
from odeae.model.errors import generalisation_error
from odeae.model.problem import Problem
from odeae.model.state import Modes, State, field_variances, total_overlaps
from odeae.theory.equations import Equations, vector_field


def _drift(y: Real, equations: Equations) -> Real:
    return vector_field(np.zeros(()), y, equations)


def moving_drift(y: Real, args: tuple[Equations, Real, Real]) -> Real:
    """Return the drift of the coordinates that move; the others stay where they began."""
    equations, y0, moves = args
    return jnp.where(moves, _drift(jnp.where(moves, y, y0), equations), 0.0)


@eqx.filter_jit
def linearise(
    equations: Equations, y: Real, wide: Equations
) -> tuple[Real, Real, Real, Real, Real]:
    """Return error, drift, whether averages are resolved here and a bit further, and the Jacobian.

    `wide` has a row of zeros for each bin. Steps of a search that would leave the variances that a
    Quadrature resolves are rejected, so the search creeps to the border.
    """
    state, inputs = equations.layout.unpack(y), equations.inputs
    total = total_overlaps(state, inputs)
    error = generalisation_error(equations.network, total, state.bias, inputs.trace)
    q = field_variances(state, inputs)
    resolves, lost = equations.network.activation.resolves, ~jnp.all(jnp.isfinite(q))
    resolved, clear = resolves(q) | lost, resolves(q * (1.0 + _BORDER)) | lost
    more = wide.layout.n_rows - equations.layout.n_rows

    def padded(rows: Real) -> Real:
        return jnp.concatenate([rows, jnp.zeros((more, *rows.shape[1:]))])

    def with_value(y: Real) -> tuple[Real, Real]:
        drift = _drift(y, wide)
        return drift, drift

    rows = jax.tree.map(padded, state.rows)
    y = wide.layout.pack(dataclasses.replace(state, rows=rows))
    jacobian, drift = jax.jacfwd(with_value, has_aux=True)(y)
    return error, drift, resolved, clear, jacobian


def with_passive_modes(equations: Equations, problem: Problem) -> Equations:
    """Return the equations with one more mode in each bin, for the modes without weights.

    The linearisation doesn't mix a row of zeros with others: it only moves in their mean field.
    """
    bulk = np.asarray(problem.spectrum.bulk) / problem.spectrum.dim
    rho = np.concatenate([equations.inputs.rho, bulk])
    return eqx.tree_at(lambda e: e.inputs.rho, equations, rho)


class Coordinates(NamedTuple):
    """The row of each packed coordinate (−1 for a bias), its rate, and whether it is frozen."""

    row: np.ndarray
    rate: np.ndarray
    frozen: np.ndarray


def coordinates_of(problem: Problem, equations: Equations) -> Coordinates:
    """Return the row, the rate and the mobility of each packed coordinate."""
    layout, network, rule = equations.layout, problem.autoencoder, problem.rule
    rho = np.asarray(equations.inputs.rho)
    lr_w, lr_u, lr_b, lr_0 = (float(rate) for rate in rule.rates(network))
    decay = float(rule.weight_decay)

    def packed(encoder: Any, decoder: Any, output: Any, bias: Any) -> np.ndarray:
        shape = (len(rho), network.hidden)
        w, u = (np.broadcast_to(np.reshape(x, (-1, 1)), shape) for x in (encoder, decoder))
        u0 = np.broadcast_to(output, len(rho)) if network.output_bias else None
        rows = Modes(w, u, u0)
        bias = np.full(network.hidden, bias)
        return np.asarray(layout.pack(State(rows=rows, n_spikes=layout.n_spikes, bias=bias)))

    index = np.arange(float(len(rho)))
    row = packed(index, index, index, -1.0).astype(int)
    rate = packed(lr_w, max(lr_w, lr_u) if network.tied else lr_u, lr_0, lr_b)
    moves = packed(lr_w * (rho + equations.inputs.noise), rate.max(), lr_0, lr_b)
    moves = np.where(rate > 0.0, moves, 0.0) + np.where(row >= 0, decay, 0.0)
    return Coordinates(row, rate, moves <= FLAT * scale_of(problem))


def eigenvalues_of(jacobian: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return eigenvalues by falling real part; they are exactly real for gradient flow."""
    if not np.all(np.isfinite(jacobian)):
        return np.full(len(jacobian), np.nan, complex)
    if np.all(rates > 0.0):  # −η_i ∂²e/∂y_i∂y_j is similar to a symmetric matrix
        root = np.sqrt(rates)
        similar = jacobian * (root[None, :] / root[:, None])
        size = np.max(np.abs(similar), initial=0.0)
        if np.all(np.abs(similar - similar.T) <= 1e-11 * size):
            return np.linalg.eigvalsh(similar)[::-1].astype(complex)
    values = np.linalg.eigvals(jacobian).astype(complex)
    return values[np.argsort(-np.real(values), kind="stable")]


# Real parts up to this part of the drift's natural size count as zero.
FLAT = 1e-7


# A failed search that ends this close to the largest variance of a Quadrature tried to leave it.
_BORDER = 1e-3


def scale_of(problem: Problem) -> float:
    """Return the natural size of the drift: the largest rate × the largest ρ̃, plus the decay."""
    rho, rule = np.asarray(problem.inputs.rho), problem.rule
    rates = [float(rate) for rate in rule.rates(problem.autoencoder)]
    size = max(rates) * float(np.max(rho, initial=0.0)) + float(rule.weight_decay)
    return size if size > 0.0 else 1.0
