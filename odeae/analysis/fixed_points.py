"""Fixed points of the learning dynamics, and which directions lead away from them.

The drift is that of `predict`, its linearisation the automatic derivative of the packed rows.
Directions that are flat because the dynamics has a symmetry are counted from the symmetry's
generators, not from how small an eigenvalue is (docs/theory.md 4, 5 and 7).
"""

import enum
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Complex, Float

from odeae.analysis.linearisation import (
    FLAT,
    coordinates_of,
    eigenvalues_of,
    linearise,
    moving_drift,
    scale_of,
    with_passive_modes,
)
from odeae.analysis.symmetries import rank_of, symmetry_tangents, turned_rows
from odeae.base.checks import scalar, whole
from odeae.base.messages import counted, explains_arguments
from odeae.base.precision import Real, in_float64, is_traced
from odeae.model.layout import columns_of
from odeae.model.leading import bulk_rows
from odeae.model.problem import Problem, check_state, sizes
from odeae.model.state import State
from odeae.results.trajectory import Trajectory
from odeae.theory.equations import Equations, equations_of

# A Jacobian of this many rows takes 130 MB; its factorisation some seconds.
_LARGEST = 4096


class FixedPointStatus(enum.IntEnum):
    """How a search for a fixed point ended; `message()` says it with the remedy."""

    CONVERGED = 0
    BUDGET = 1
    STUCK = 2
    UNRESOLVED = 3
    NONFINITE = 4

    def message(self) -> str:
        """One line for people, with the remedy."""
        return {
            FixedPointStatus.CONVERGED: "converged",
            FixedPointStatus.BUDGET: "no fixed point yet: it spent its steps; give a larger "
            "`max_steps` or a start closer to one. Where weights grow or shrink for ever, as those "
            "of untied sigmoidal neurons without decay do, there is none at finite weights",
            FixedPointStatus.STUCK: "no fixed point: the drift is smallest here among the states "
            "nearby, but not zero; start elsewhere",
            FixedPointStatus.UNRESOLVED: "no fixed point: it came to the end of the range of field "
            "variances that the Quadrature resolves; construct it with a larger `q_max`, or start "
            "elsewhere",
            FixedPointStatus.NONFINITE: "the weights or their drift stopped being finite; start "
            "elsewhere",
        }[self]


class Directions(NamedTuple):
    """Numbers of directions: how many lead away, lead back, do neither.

    `unstable`, `stable`, `flat`: eigenvalues with a real part above, below and at 0 (to the
    tolerance). `symmetric`: how many of the flat ones a symmetry explains. `frozen`: coordinates
    that don't move and aren't counted among the others: those whose rate × ρ̃ is up to 1e-7 of the
    largest, so with rates of 0, and encoders of modes without variance or of a bulk at large D.
    """

    unstable: int
    stable: int
    flat: int
    symmetric: int
    frozen: int


class FixedPoint(eqx.Module):
    """A fixed point, or the point where the search for one ended.

    Unless `status` is CONVERGED there is no fixed point here, and eigenvalues and directions are
    those of the drift's linearisation at a point like any other.

    `error`: generalisation error there. `residual`: largest entry of the drift of what moves.
    `steps` of the solver. `eigenvalues` (n,): of the drift's linearisation, by falling real part,
    in units of D/steps, over what takes part: spikes, biases and those bins of the bulk that have
    weights. `directions` counts them. `bulk_eigenvalues` (bins, width): those of one mode of each
    bin that has no weights, O(1/D) for the encoder's part; `bulk_directions` counts them with the
    numbers of such modes. The two together are the spectrum of all coordinates that D modes and the
    biases have.
    """

    state: State
    error: Float[Real, ""]
    residual: Float[Real, ""]
    status: FixedPointStatus = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    eigenvalues: Complex[Real, " directions"]
    directions: Directions = eqx.field(static=True)
    bulk_eigenvalues: Complex[Real, "bins width"]
    bulk_directions: Directions = eqx.field(static=True)

    @property
    def kind(self) -> str:
        """What it is, in words: stable, a saddle with how many ways down, or no fixed point."""
        if self.status is not FixedPointStatus.CONVERGED:
            return "no fixed point"
        own, bulk = self.directions, self.bulk_directions
        if own.unstable + bulk.unstable:
            many = "" if own.unstable == 1 else "s"
            kind = f"saddle with {own.unstable} unstable direction{many}"
            kind += f" and {bulk.unstable} in the bulk" if bulk.unstable else ""
        else:
            kind = "stable" if own.flat == own.symmetric else "stable or degenerate"
        flat = f"{own.flat} flat, {own.symmetric} of them by symmetry" if own.flat else "none flat"
        return f"{kind}, {flat}"

    def __repr__(self):
        return (
            f"FixedPoint: {self.kind}\n  error    {float(self.error):.6g}, drift at most "
            f"{float(self.residual):.2g} after {counted(self.steps, 'step')}\n  status   "
            f"{self.status.message()}"
        )


@explains_arguments
def fixed_points(
    problem: Problem, states: Any, tol: Any = 1e-10, max_steps: int | None = None
) -> Any:
    """Find the fixed point near each of `states`, and what leads away from it.

    `states`: one State, such as `predict(problem, state, [t]).final` on a plateau, which gives one
    `FixedPoint`, or a list of them (or a State with a leading axis), which gives a tuple. `tol`:
    the drift is at most `tol` times its natural size, the largest rate times the largest ρ̃ (plus
    the decay). `max_steps` of Levenberg–Marquardt, 1000 by default, from each start to a zero of
    the drift that `predict` integrates; saddles attract it no less than minima. What fails says so
    in its `status` and never raises: untied saturating networks without decay have no fixed point
    but the origin (docs/theory.md 8).

    Directions count the eigenvalues of the linearisation; those whose real part is at most 1e-7 of
    the drift's size are flat. Symmetries of the problem explain flat ones by their generators, of
    which those that change the state count: rotations among modes of equal eigenvalue (always); of
    neurons into each other, GL(K) for linear networks without decay, O(K) with decay or tied; the
    scale of a ReLU neuron (w → a w, b → a b, u → u/a) without decay; with both biases a linear
    network's b against v_0. Coordinates that never move (rate 0, no variance) are left out.

    The state is that of `predict`: a bin of the bulk is a few virtual rows. What its other modes
    add is known exactly, and counted in `bulk_directions`. Source: docs/theory.md 4, 5 and 7
    (Baldi and Hornik 1989 for linear networks).

    Raises `ValueError` for a learning-rate schedule (no state is at rest for all factors: give the
    rates at the time you mean), under jit, vmap and grad, and for more than 4096 coordinates.
    """
    sizes(problem)
    if is_traced((problem, states)):
        raise ValueError(
            "`fixed_points` must have concrete arguments: call it outside jit and vmap"
        )
    if np.ndim(problem.noise):
        raise ValueError("`problem` must be a single one, got lanes: take one of them")
    if problem.rule.schedule is not None:
        raise ValueError(
            "`problem` must have no learning-rate `schedule`, under which the drift depends on "
            "time: give its rule the rates of the time you mean and schedule=None"
        )
    tol = scalar("tol", tol, above=0.0)
    max_steps = 1000 if max_steps is None else whole("max_steps", max_steps)
    if isinstance(states, State) and np.ndim(states.bias) == 1:
        return _fixed_point(problem, states, tol, max_steps)
    return tuple(_fixed_point(problem, state, tol, max_steps) for state in _list_of(states))


def _list_of(states: Any) -> list[State]:
    """Return the states of a sequence, or of a State with a leading axis."""
    if isinstance(states, State) and np.ndim(states.bias) == 2:
        count = np.shape(states.bias)[0]
        return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], states) for i in range(count)]
    if not isinstance(states, list | tuple) or not all(isinstance(s, State) for s in states):
        raise ValueError(
            "`states` must be an odeae State or a list of them, got "
            + (type(states).__name__ if not isinstance(states, list | tuple) else "other things")
            + ("; take its `final`" if isinstance(states, Trajectory) else "")
        )
    if not states:
        raise ValueError("`states` must hold at least one State, got an empty list")
    return list(states)


@in_float64
def _fixed_point(problem: Problem, state: State, tol: Any, max_steps: int) -> FixedPoint:
    """Search from one start and classify what was found."""
    state = check_state(problem, state)
    equations = equations_of(problem)
    count = equations.layout.pack(state).shape[0]
    if count > _LARGEST:
        raise ValueError(
            f"`problem` must have at most {_LARGEST} coordinates to be linearised, got {count}; "
            "give its spectrum fewer `spikes` or `bins`"
        )
    scale = scale_of(problem)
    moves = ~coordinates_of(problem, equations).frozen
    y, spent, steps = _search(equations, state, moves, tol * scale, max_steps)
    wide = with_passive_modes(equations, problem)
    error, drift, resolved, clear, jacobian = linearise(equations, y, wide)
    residual = np.max(np.abs(drift)[~coordinates_of(problem, wide).frozen], initial=0.0)
    finite = bool(np.all(np.isfinite(y)) and (np.isfinite(residual) or not resolved))
    small = bool(resolved and residual <= tol * scale)
    status = _status(finite, bool(small or clear), small, bool(spent))
    found = equations.layout.unpack(jnp.asarray(y))
    parts = _classify(problem, wide, found, np.asarray(jacobian), scale)
    return FixedPoint(found, error, residual, status, int(steps), *parts)


def _status(finite: bool, resolved: bool, small: bool, spent: bool) -> FixedPointStatus:
    if not finite:
        return FixedPointStatus.NONFINITE
    if not resolved:
        return FixedPointStatus.UNRESOLVED
    if small:
        return FixedPointStatus.CONVERGED
    return FixedPointStatus.BUDGET if spent else FixedPointStatus.STUCK


@eqx.filter_jit
def _search(equations: Equations, state: State, moves, tolerance, max_steps: int):
    """Zero of the drift from a start, by Levenberg–Marquardt.

    Symmetries make the Jacobian singular at every fixed point, so Newton's step doesn't exist
    there. The damped one does, doesn't move in flat directions, and still converges quadratically
    where zeros are not isolated (Yamashita and Fukushima 2001).
    """
    solver = optx.LevenbergMarquardt(rtol=1e-14, atol=1e-4 * tolerance)
    y0 = equations.layout.pack(state)
    args = (equations, y0, moves)
    solution = optx.root_find(moving_drift, solver, y0, args, max_steps=max_steps, throw=False)
    spent = solution.result == optx.RESULTS.nonlinear_max_steps_reached
    return jnp.where(moves, solution.value, y0), spent, solution.stats["num_steps"]


def _classify(problem: Problem, wide: Equations, state: State, jacobian: np.ndarray, scale: float):
    """Eigenvalues and directions of what takes part, and of the bulk's modes without weights."""
    spectrum, network = problem.spectrum, problem.autoencoder
    at = coordinates_of(problem, wide)
    spikes, own = state.n_spikes, bulk_rows(spectrum, network.width)
    columns = np.asarray(columns_of(network, state.rows))
    bins = np.repeat(np.arange(len(own)), own)
    size = np.max(np.abs(columns), axis=1, initial=0.0)
    weights = np.bincount(bins, size[spikes:] > 1e-7 * (1.0 + size.max(initial=0.0)), len(own)) > 0
    rows = np.concatenate([np.ones(spikes, bool), weights[bins], np.zeros(len(own), bool)])
    part = np.append(rows, True)[at.row]  # the last entry is that of row −1, the biases

    moving = part & ~at.frozen
    values = eigenvalues_of(jacobian[np.ix_(moving, moving)], at.rate[moving])
    turned, pairs, idle = turned_rows(wide, columns, np.flatnonzero(rows))
    tangents = symmetry_tangents(problem, wide, turned, np.asarray(state.bias), pairs)
    symmetric = rank_of(tangents[:, moving], tangents[:, part & at.frozen])
    for space in idle:
        own_rows, frozen = turned[space[: network.width]], at.frozen[at.row == space[-1]]
        one = rank_of(own_rows[:, ~frozen], own_rows[:, frozen])
        symmetric += (len(space) - network.width) * one
    directions = _count(values, symmetric, int(np.sum(part & at.frozen)), scale)

    bulk_values, counts = np.zeros((len(own), network.width), complex), np.zeros(5, int)
    for b, (m, n) in enumerate(zip(spectrum.multiplicity, own, strict=True)):
        mine = at.row == len(rows) - len(own) + b
        frozen = at.frozen[mine]
        bulk_values[b] = eigenvalues_of(jacobian[np.ix_(mine, mine)], at.rate[mine])
        mine = mine & ~at.frozen
        block = eigenvalues_of(jacobian[np.ix_(mine, mine)], at.rate[mine])
        turned = columns[spikes:][bins == b] if weights[b] else np.zeros((0, network.width))
        one = _count(
            block, rank_of(turned[:, ~frozen], turned[:, frozen]), int(frozen.sum()), scale
        )
        counts += (m - n if weights[b] else m) * np.array(one)
    return values, directions, bulk_values, Directions(*counts.tolist())


def _count(values: np.ndarray, symmetric: int, frozen: int, scale: float) -> Directions:
    real = np.real(values)
    unstable, stable = np.sum(real > FLAT * scale), np.sum(real < -FLAT * scale)
    flat = np.sum(np.abs(real) <= FLAT * scale)  # NaN is none of these
    return Directions(int(unstable), int(stable), int(flat), symmetric, frozen)
