"""Fixed points of the learning dynamics, and the directions that lead away from them.

The drift is the drift of `predict`; its linearisation is the automatic derivative of the packed
rows. Directions that are flat because of a symmetry are counted from the generators of the
symmetry, not from the size of eigenvalues (docs/theory.md 4, 5 and 7).
"""

import enum
from collections.abc import Sequence
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
from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.model.layout import columns_of
from odeae.model.leading import bulk_rows
from odeae.model.problem import Problem, check_state, sizes
from odeae.model.state import State
from odeae.results.trajectory import Trajectory
from odeae.theory.equations import Equations, equations_of

# A Jacobian of this many rows takes 130 MB; its factorisation some seconds.
_LARGEST = 4096


class FixedPointStatus(enum.IntEnum):
    """How a search for a fixed point ended; `message()` names the remedy.

    Attributes:
        CONVERGED: 0. The drift is below the tolerance.
        BUDGET: 1. The search needed more steps than `max_steps`.
        STUCK: 2. The drift is smallest here among the states nearby, but not zero.
        UNRESOLVED: 3. The search left the field variances that a `Quadrature` resolves.
        NONFINITE: 4. The weights or their drift stopped being finite.

    Example:
        >>> odeae.FixedPointStatus.CONVERGED.message()
        'converged'
    """

    CONVERGED = 0
    BUDGET = 1
    STUCK = 2
    UNRESOLVED = 3
    NONFINITE = 4

    def message(self) -> str:
        """Return one line for people: how the search ended, and the remedy."""
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
    """The numbers of directions that lead away from a point, lead back, or do neither.

    Attributes:
        unstable: Eigenvalues of the linearisation with a positive real part.
        stable: Eigenvalues with a negative real part.
        flat: Eigenvalues with real part 0, to the tolerance.
        symmetric: How many of the flat directions a symmetry explains.
        frozen: Coordinates that don't move, which are not counted above. Their rate × ρ̃ is at most
            1e-7 of the largest: parts with rate 0, and encoders of modes without variance or of a
            bulk at large D.

    Example:
        >>> odeae.Directions(unstable=1, stable=4, flat=1, symmetric=1, frozen=0).unstable
        1
    """

    unstable: int
    stable: int
    flat: int
    symmetric: int
    frozen: int


class FixedPoint(eqx.Module):
    """A fixed point, or the point where the search for one ended, from `fixed_points`.

    Unless `status` is CONVERGED there is no fixed point here, and eigenvalues and directions belong
    to the linearisation at an ordinary point. `directions` and `bulk_directions` together count all
    coordinates of the D modes and the biases.

    Source: docs/theory.md 4, 5 and 7.

    Attributes:
        state: The state at the point.
        error: Generalisation error at the point.
        residual: Largest entry of the drift among the coordinates that move, per unit of time.
        status: How the search ended.
        steps: Steps of the search.
        eigenvalues: Eigenvalues of the linearised drift, by falling real part, per unit of time
            (D steps), (n,), over spikes, biases and the bins of the bulk that have weights.
        directions: How many of these lead away, lead back or do neither.
        bulk_eigenvalues: Eigenvalues of one mode of each bin without weights, (bins, width); O(1/D)
            for the encoder's part.
        bulk_directions: The same numbers of directions for all modes of the bulk without weights.
        kind: What the point is, in words.

    Example:
        >>> point = odeae.fixed_points(problem, odeae.aligned_state(problem, 0.0, 0.0))
        >>> print(point.kind)
        saddle with 9 unstable directions and 2991 in the bulk, none flat
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
        """The kind in words: stable, a saddle with its unstable directions, or no fixed point."""
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

    def __repr__(self) -> str:
        return (
            f"FixedPoint: {self.kind}\n  error    {float(self.error):.6g}, drift at most "
            f"{float(self.residual):.2g} after {counted(self.steps, 'step')}\n  status   "
            f"{self.status.message()}"
        )


@explains_arguments
def fixed_points(
    problem: Problem,
    states: State | Sequence[State],
    tol: ArrayLike = 1e-10,
    max_steps: int | None = None,
) -> Any:
    """Find the fixed point near each state, and the directions that lead away from it.

    From each start Levenberg–Marquardt searches a zero of the drift that `predict` integrates;
    saddles attract it as much as minima. A search that fails never raises an error, but says so in
    its `status`: untied saturating networks without decay, for example, have no fixed point except
    the origin (docs/theory.md 8).

    Directions count the eigenvalues of the linearisation. A real part of at most 1e-7 of the
    drift's natural size counts as flat. Symmetries of the problem explain flat directions: each
    generator of a symmetry that changes the state counts. Generators are rotations among modes of
    equal eigenvalue (always); linear maps of the neurons, GL(K) for linear networks without decay,
    O(K) with decay or tied weights; the scale of a ReLU neuron (w → a w, b → a b, u → u/a) without
    decay; and, with both biases, b against v_0 of a linear network. Coordinates that never move
    (rate 0, no variance) are left out. A bin of the bulk is a few virtual rows, as in `predict`;
    its other modes are known exactly, and counted in `bulk_directions`.

    Args:
        problem: The problem, without a learning-rate schedule.
        states: One state, such as `predict(problem, state, [t]).final` on a plateau, or a list of
            states, or a state with a leading axis.
        tol: Largest drift of a fixed point, in units of its natural size, which is the largest rate
            times the largest ρ̃, plus the decay.
        max_steps: Largest number of steps from each state, 1000 by default.

    Returns:
        A `FixedPoint` for one state, a tuple of them for several.

    Raises:
        ValueError: For a learning-rate schedule (no state is at rest for all factors: give the rule
            the rates of one time), for more than 4096 coordinates, and under jit, vmap and grad.

    Source: docs/theory.md 4, 5 and 7; Baldi and Hornik (1989) for linear networks.

    Example:
        >>> point = odeae.fixed_points(problem, odeae.aligned_state(problem, 0.0, 0.0))
        >>> point.directions.unstable
        9
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
    bound = scalar("tol", tol, above=0.0)
    max_steps = 1000 if max_steps is None else whole("max_steps", max_steps)
    if isinstance(states, State) and np.ndim(states.bias) == 1:
        return _fixed_point(problem, states, bound, max_steps)
    return tuple(_fixed_point(problem, state, bound, max_steps) for state in _list_of(states))


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
def _fixed_point(problem: Problem, state: State, tol: Real, max_steps: int) -> FixedPoint:
    """Search from one start and classify the point at the end."""
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
def _search(
    equations: Equations, state: State, moves: Real, tolerance: Real, max_steps: int
) -> tuple[Real, Real, Any]:
    """Search a zero of the drift by Levenberg–Marquardt.

    Symmetries make the Jacobian singular at every fixed point, so Newton's step doesn't exist
    there. The damped step exists, doesn't move in flat directions, and still converges
    quadratically where zeros are not isolated (Yamashita and Fukushima 2001).
    """
    solver = optx.LevenbergMarquardt(rtol=1e-14, atol=1e-4 * tolerance)
    y0 = equations.layout.pack(state)
    args = (equations, y0, moves)
    solution = optx.root_find(moving_drift, solver, y0, args, max_steps=max_steps, throw=False)
    spent = solution.result == optx.RESULTS.nonlinear_max_steps_reached
    return jnp.where(moves, solution.value, y0), spent, solution.stats["num_steps"]


def _classify(
    problem: Problem, wide: Equations, state: State, jacobian: np.ndarray, scale: float
) -> tuple[np.ndarray, Directions, np.ndarray, Directions]:
    """Return eigenvalues and directions, and the same for the bulk's modes without weights."""
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
