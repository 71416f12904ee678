"""Runs that go on: what they belong to, and the weights they begin from."""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import numpy as np

from odeae.base.checks import numbers
from odeae.base.messages import shortened
from odeae.base.rows import Rows
from odeae.model.autoencoder import Weights
from odeae.model.initial import check_weights, draw_weights
from odeae.model.problem import Problem
from odeae.model.state import State
from odeae.results.checkpoint import Checkpoint
from odeae.simulation.sources import START


def about_runs(problem: Problem, rows: Rows | None) -> dict[str, Any]:
    """What runs belong to, by dotted names, in JSON's types: problem and data, in few numbers.

    Eigenvalues enter as weighted sums, functions as a few of their values, data as a shape and a
    digest of three rows.
    """
    spectrum, dim = problem.spectrum, problem.spectrum.dim
    distinct = 0.5 + np.arange(dim) * 0.6180339887498949 % 1.0  # another weight for every mode

    def total(values: Any) -> float:
        return float(np.abs(values) @ distinct[: len(values)])

    lumped = [spectrum.spikes, np.repeat(spectrum.bulk, spectrum.multiplicity) / dim]
    about = {
        "spectrum.dim": dim,
        "spectrum.spikes": len(spectrum.spikes),
        "spectrum.bins": len(spectrum.bulk),
        "spectrum.trace": float(spectrum.trace),
        "spectrum.eigenvalues": [total(spectrum.eigenvalues()), total(np.concatenate(lumped))],
        "spectrum.mean": 0.0 if spectrum.mean is None else total(spectrum.mean),
        **_values("autoencoder", problem.autoencoder, (-1.3, 0.4, 2.1)),
        **_values("rule", problem.rule, (0.3, 1.7, 40.0)),
        "noise": float(problem.noise),
    }
    if rows is not None:
        few = rows[sorted({0, len(rows) // 2, len(rows) - 1})]
        digest = hashlib.sha256(np.ascontiguousarray(few).tobytes()).hexdigest()
        about |= {"data.shape": list(rows.shape), "data.rows": digest[:16]}
    return about


def _values(name: str, part: Any, points: tuple[float, ...]) -> dict[str, Any]:
    """All values of a module, by dotted names; of functions those at `points`."""
    if dataclasses.is_dataclass(part):
        found: dict[str, Any] = {name: type(part).__name__}
        for field in dataclasses.fields(part):
            found |= _values(f"{name}.{field.name}", getattr(part, field.name), points)
        return found
    if callable(part):
        part = [np.asarray(part(np.asarray(point))).tolist() for point in points]
    return {name: part.tolist() if hasattr(part, "tolist") else part}


def check_same_runs(kept: dict[str, Any], about: dict[str, Any]) -> None:
    """Raise `ValueError` if what earlier runs belong to differs from what they should go on with.

    Numbers may differ by rounding: of an eigenbasis that was computed again, for example.
    """

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, float) and isinstance(b, float):
            return math.isclose(a, b, rel_tol=1e-9) or (a != a and b != b)
        return a == b

    for name, value in about.items():
        if name in kept and not same(kept[name], value):
            raise ValueError(
                f"`weights` are of runs with another {name.replace('.', ' ', 1)}: "
                f"{shortened(kept[name])}, got {shortened(value)}; go on with the same"
            )


def check_whole(kept: dict[str, Any]) -> None:
    """Raise `ValueError` for the weights of runs that were taken out of several."""
    if "part" in kept:
        raise ValueError(
            f"`weights` are of a part of the runs, {kept['part']}, whose draws depend on their "
            "place among all: go on with the weights of all runs"
        )


def starting_weights(
    problem: Problem, state: State | None, weights: Any, seed: int, runs: int, basis: Any
) -> tuple[Weights, int]:
    """Return the weights that the runs begin from, a leading axis of runs, and their step.

    `basis`: the eigenvectors, if the runs' weights are in input space.
    """
    if isinstance(weights, Checkpoint):
        return given_weights(problem, weights.weights, runs), weights.step
    first = 0
    if weights is not None:
        start = given_weights(problem, weights, runs)
    else:
        start = drawn_weights(problem, state, seed, runs)
        first = 0 if state is None else int(np.round(float(state.start) * problem.spectrum.dim))
    if basis is not None:
        W, V, b, v0 = start
        start = Weights(W @ basis.T, V @ basis.T, b, None if v0 is None else v0 @ basis.T)
    return start, first


def drawn_weights(problem: Problem, state: State | None, seed: int, runs: int) -> Weights:
    """Return weights drawn for `state`, a leading axis of runs; `ValueError` without a state."""
    if state is None:
        raise ValueError("give a `state` or `weights` to start from, got neither")
    drawn = [draw_weights(problem, state, [seed, run, START]) for run in range(runs)]
    return jax.tree.map(lambda *parts: np.stack(parts), *drawn)


_LETTERS = dict(zip(Weights._fields, ("W", "V", "bias", "output_bias"), strict=True))


def given_weights(problem: Problem, weights: Any, runs: int) -> Weights:
    """Return weights that a user gave, (W, V, …), checked, with a leading axis of runs."""
    if not isinstance(weights, tuple | list) or len(weights) not in (2, 3, 4):
        raise ValueError(
            "`weights` must be a Checkpoint, (W, V), (W, V, bias) or (W, V, bias, output_bias), "
            f"got {type(weights).__name__}"
        )
    axes = (2, 2, 1, 1)  # of one run
    parts = (*weights, None, None)[:4]
    for name, value in zip(Weights._fields, parts, strict=True):
        if value is not None:
            numbers(name, value)
    # Their dtype says how they were rounded.
    parts = tuple(value if value is None else np.asarray(value) for value in parts)

    def of_run(run: int) -> Weights:
        own = [
            p if p is None or p.ndim != n + 1 else p[run] for p, n in zip(parts, axes, strict=True)
        ]
        return check_weights(problem, *own)

    for name, part, n in zip(Weights._fields, parts, axes, strict=True):
        if part is not None and part.ndim == n + 1 and len(part) != runs:
            raise ValueError(
                f"`weights` must hold {_LETTERS[name]} of {runs} runs, got {len(part)}"
            )
    return jax.tree.map(lambda *values: np.stack(values), *map(of_run, range(runs)))
