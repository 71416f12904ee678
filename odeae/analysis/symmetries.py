"""Directions along which a symmetry moves a fixed point."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from odeae.model.layout import rows_of
from odeae.model.problem import Problem
from odeae.model.state import Modes, State
from odeae.theory.equations import Equations


def rank_of(tangents: np.ndarray, frozen: np.ndarray) -> int:
    """Return the rank of the combinations of tangents that don't move frozen coordinates."""
    if tangents.size == 0 or not np.all(np.isfinite(tangents)):
        return 0
    size = max(1.0, np.max(np.abs(tangents)))
    if frozen.size:
        left, values, _ = np.linalg.svd(frozen)
        fixed = int(np.sum(values > 1e-7 * size))
        tangents = left[:, fixed:].T @ tangents
    if tangents.size == 0:
        return 0
    return int(np.sum(np.linalg.svd(tangents, compute_uv=False) > 1e-7 * size))


def _neuron_generators(problem: Problem) -> list[np.ndarray]:
    """Return a basis of the A (K, K) for which w + ε A w, u − ε Aᵀ u, b + ε A b is a symmetry."""
    K = problem.autoencoder.hidden
    E = np.eye(K)[:, None, :, None] * np.eye(K)[None, :, None, :]  # E[k, a] is 1 at (k, a)
    pairs = [(k, a) for k in range(K) for a in range(K)]
    return {
        "none": [],
        "scale": [E[k, k] for k in range(K)],
        "rotation": [E[k, a] - E[a, k] for k, a in pairs if k < a],
        "linear": [E[k, a] for k, a in pairs],
    }[problem.rule.symmetry(problem.autoencoder)]


def turned_rows(
    wide: Equations, columns: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.integer, np.integer]], list[np.ndarray]]:
    """Turn every eigenspace so that at most `width` of its rows are not zero.

    A rotation of modes of equal eigenvalue changes no count. Generators of rotations among rows of
    zeros do nothing; without this step, d equal spikes would have d²/2 of them.

    Args:
        wide: The equations, with a row of zeros for each bin.
        columns: Rows of a state, (rows, width).
        rows: The rows that take part.

    Returns:
        The turned rows of `wide`; the pairs of rows whose rotations count; and the eigenspaces
        (lists of rows) with rows of zeros behind the first `width`. Each row of zeros turns into a
        combination of the first rows, which touches no other row.
    """
    rho, width = np.asarray(wide.inputs.rho), columns.shape[1]
    turned, pairs, idle = np.zeros((len(rho), width)), [], []
    turned[: len(columns)] = columns
    rows = rows[np.argsort(rho[rows], kind="stable")]
    ends = np.flatnonzero(~np.isclose(rho[rows][1:], rho[rows][:-1], rtol=1e-12, atol=0.0)) + 1
    for space in np.split(rows, ends):
        if len(space) > width:
            turned[space[width:]] = 0.0
            turned[space[:width]] = np.linalg.qr(columns[space], mode="r")
            idle.append(space)
        pairs += itertools.combinations(space[:width], 2)
    return turned, pairs, idle


def symmetry_tangents(
    problem: Problem,
    wide: Equations,
    columns: np.ndarray,
    b: np.ndarray,
    pairs: list[tuple[np.integer, np.integer]],
) -> np.ndarray:
    """Return the changes of a state by the generators, (generators, packed coordinates)."""
    network, layout = problem.autoencoder, wide.layout
    modes = jax.tree.map(np.asarray, rows_of(network, jnp.asarray(columns)))
    w, u, u0 = modes.encoder, modes.decoder, modes.output
    still = np.zeros_like(b)
    none = None if u0 is None else np.zeros_like(u0)
    changes = [(Modes(w @ A.T, -u @ A, none), A @ b) for A in _neuron_generators(problem)]
    for n, m in pairs:
        turn = np.zeros_like(columns)
        turn[n], turn[m] = columns[m], -columns[n]
        changes.append((jax.tree.map(np.asarray, rows_of(network, turn)), still))
    linear, decay = network.activation.symmetry == "linear", float(problem.rule.weight_decay)
    if linear and network.bias and u0 is not None and decay == 0.0:
        nothing = np.zeros_like(u)
        for k in range(network.hidden):
            changes.append((Modes(nothing, nothing, -u[:, k]), np.eye(network.hidden)[k]))

    def packed(rows, bias):
        state = State(rows=rows, n_spikes=layout.n_spikes, bias=bias)
        return np.asarray(layout.pack(state))[None]

    none = packed(modes, still)[:0]
    return np.concatenate([none, *(packed(*change) for change in changes)])
