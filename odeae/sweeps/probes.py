"""What a `build` makes of a few points: which of its numbers can be traced, and what it is."""

import hashlib
import re
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.checks import warn
from odeae.base.messages import shortened
from odeae.base.precision import float64, in_float64, to_numpy
from odeae.model.problem import Problem, check_state
from odeae.model.schedules import check_schedule
from odeae.model.state import State
from odeae.sweeps.grid import described_values, plain_value
from odeae.theory.equations import Equations, equations_of
from odeae.theory.predict import start_of


def lane_of(build: Callable, values: dict[str, Any]) -> tuple[Equations, State]:
    """What a lane is made of: equations and initial state."""
    problem, state = _made(build, values)
    return equations_of(problem), check_state(problem, state)


def _made(build: Callable, values: dict[str, Any]) -> tuple[Problem, State]:
    made = build(**values)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Problem)):
        raise ValueError(f"`build` must return a problem and a state, got {shortened(made)}")
    return made


def traced_lane(
    build: Callable, values: dict[str, Any], traced: tuple[str, ...], numbers: list
) -> Callable:
    """The compiled `build` of many lanes, one number of each for every traced parameter."""

    def lane(*numbers):
        return lane_of(build, {**plain_value(values), **dict(zip(traced, numbers, strict=True))})

    lowered = jax.jit(jax.vmap(lane, out_axes=-1)).lower(*numbers)
    # It runs for milliseconds, so that to optimise it would take longer.
    return lowered.compile({"xla_backend_optimization_level": "0"})


@in_float64
def probe(
    build: Callable, values: dict[str, Any], times: Any
) -> tuple[Problem, tuple[Equations, State]]:
    """Build one problem and its lane, of concrete values; errors say which."""
    try:
        problem, state = _made(build, plain_value(values))
        lane = equations_of(problem), check_state(problem, state)
        check_schedule(problem.rule.schedule, times[-1])
        start_of(state, None, times)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"build({described_values(values)}) raised {type(error).__name__}: {said}"
        ) from error
    return problem, lane


def digest_of(lane: Any) -> str:
    """A fingerprint of problem and state, to ten digits: machines differ in the last ones."""
    leaves, kind = jax.tree.flatten(to_numpy(lane))
    numbers = ["/".join(f"{x:.9e}" for x in np.ravel(leaf).astype(float)) for leaf in leaves]
    text = "|".join([re.sub(r" at 0x[0-9a-f]+", "", str(kind)), *numbers])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sketch(lanes: Any) -> np.ndarray:
    """One number per lane, (n,), that a change of the lane's problem or state changes.

    It changes as little as they do. So it's compared with a tolerance, and a million numbers are
    told from others on every machine, where some digest of them would differ by a last digit.
    """
    leaves, kind = jax.tree.flatten(lanes)
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{kind} {[leaf.shape[:-1] for leaf in leaves]}")
    structure = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    total = np.full(leaves[0].shape[-1], structure)
    for seed, leaf in enumerate(leaves):
        rows = np.reshape(np.asarray(leaf, float), (-1, leaf.shape[-1]))
        odd = ~np.isfinite(rows)
        rows = np.where(odd, 0.0, rows)
        largest = np.max(np.abs(rows), axis=0, initial=0.0)
        scale = np.where(largest > 0, largest, 1.0)
        weights = np.random.default_rng(seed).uniform(0.5, 1.5, 1 + len(rows))
        total += weights[0] * np.log(scale) + weights[1:] @ (rows / scale + odd)
    return total


def traceable(build: Callable, columns: dict[str, Any], first: dict[str, Any]) -> tuple[str, ...]:
    """The parameters that `build` can be traced over: not those that decide shapes or rules."""
    numbers = [name for name, values in columns.items() if isinstance(values, np.ndarray)]
    refused = _refusal(build, numbers, first)
    if refused is None:
        return tuple(numbers)
    alone = {name: _refusal(build, [name], first) for name in numbers}
    traced = [name for name in numbers if alone[name] is None]
    if traced and _refusal(build, traced, first) is not None:
        traced = []
    for name in numbers:
        if name not in traced and columns[name].dtype.kind == "f" and len(columns[name]) > 8:
            warn(
                f"`build` can't be traced over {name!r} ({alone[name] or refused}), so it's called "
                "once for each value; a traced number can't be used in `if`, `int()` or NumPy"
            )
    return tuple(traced)


def _refusal(build: Callable, names: list[str], first: dict[str, Any]) -> str | None:
    """Why `build` can't be traced over these parameters, or None."""

    def one(*numbers):
        return lane_of(build, {**first, **dict(zip(names, numbers, strict=True))})

    try:
        with float64():
            jax.eval_shape(one, *(jnp.asarray(first[name]) for name in names))
    except Exception as error:  # whatever a function of the user's raises on a tracer
        return textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder="…")
    return None
