"""What must hold for every problem of `fuzz_problems`, whatever its numbers."""

import contextlib
import copy
import dataclasses
import functools
import gc
import linecache
import pickle
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_problems as problems
import jax
import numpy as np
from fuzz_problems import BLOCK, LINEAR_RULES, Configuration

import odeae

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import reference

PACKAGE = str(Path(odeae.__file__).parent)
KINDS = ["named", "predict", "sweep", "oracle", "simulate", "files", "bad"]
MANY = 100.0  # times its rtol of e(0): how far the default may be from the truth
# (A larger `atol` ends plateaus too early: what decays while others are learnt falls to 1e-100.)
TIGHT = {"rtol": 1e-11, "atol": 1e-160}
WORDS = r"\bjax\b(?!\.(Array|numpy))|\blax\.|Traceback|Tracer|__array|XLA|pytree|equinox|xarray\."
ROUNDING = 1e-11  # of the largest of the terms that cancel in an error


class Fault(NamedTuple):
    """What went wrong: the class it is counted in, one line, and a script."""

    number: int
    what: str
    text: str
    script: str


class Done(NamedTuple):
    """Result of a block: how many were compared with a tight solve, and the faults."""

    compared: int
    faults: list[Fault]


Say = Callable[[int], None]  # told the number of what is done next


def complaint(error: BaseException) -> str | None:
    """What is wrong with an error as a message for people: None if it's one readable line."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, TypeError) and re.search(
        r"unexpected keyword|missing \d+ required|positional argument|multiple values", text
    ):
        return None  # Python's own words about a call
    allowed = (ValueError, TypeError, OSError, RuntimeError, ImportError)
    if not isinstance(error, allowed) or type(error).__module__ not in ("builtins", "odeae"):
        return f"raises {name}"
    if "\n" in text or not 0 < len(text) <= 400:
        return f"says {len(text)} characters in {1 + text.count(chr(10))} lines"
    if found := re.search(WORDS, text):
        return f"speaks of {found.group()!r}"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return None
    path, line = frame.tb_frame.f_code.co_filename, frame.tb_lineno
    said = linecache.getline(path, line).strip()
    if not path.startswith(PACKAGE) or not said.startswith("raise"):
        return f"is raised by {Path(path).name}:{line}, not on purpose by odeae"
    return None


def refused(c: Configuration, error: BaseException) -> bool:
    """Whether times that are 0 for the processor, below 1e-290, are refused as such."""
    return c.times[-1] < 1e-290 and isinstance(error, ValueError) and complaint(error) is None


def first_line(error: BaseException) -> str:
    text = (str(error).strip() or "-").splitlines()[0]
    return f"{type(error).__name__}: {text[:200]}"


def scale_of(c: Configuration, T0, Q1, bias, trace) -> np.ndarray:
    """Size (…,) of the terms whose sum is the error, rounding of which is no fault."""
    own = np.ones(np.shape(bias))
    if c.shape.activation in ("relu", "gelu", "linear"):
        own = np.diagonal(Q1, axis1=-2, axis2=-1) + np.square(bias)
    root = np.sqrt(np.abs(own))
    return 0.5 * trace + np.sum(np.abs(T0) * root[..., :, None] * root[..., None, :], (-2, -1))


class Curve(NamedTuple):
    """What one solve gave, in NumPy's arrays."""

    error: np.ndarray
    excess: np.ndarray
    clean: np.ndarray
    scale: np.ndarray
    status: int
    stop_time: float


def of_trajectory(c: Configuration, t: Any) -> Curve:
    scale = scale_of(c, t.T0, t.Q1, t.bias, t.problem.spectrum.trace)
    values = (np.asarray(x, float) for x in (t.error, t.excess, t.error_clean, scale))
    return Curve(*values, int(t.status), float(t.stop_time))


def of_lane(c: Configuration, table: dict[str, np.ndarray], i: int, trace: float) -> Curve:
    scale = scale_of(c, table["T0"][i], table["Q1"][i], table["bias"][i], trace)
    values = (table[name][i] for name in ("error", "excess", "error_clean"))
    return Curve(*values, scale, int(table["status"][i]), float(table["stop_time"][i]))


def curve_faults(
    c: Configuration, problem: Any, curve: Curve, flow: bool = True
) -> Iterator[tuple[str, str]]:
    """(class, text) of all that can be wrong with one curve by itself.

    `flow`: no noise of the gradient was asked for, which may raise the error of a descent.
    """
    times, status = np.asarray(c.times), curve.status
    if status not in {int(s) for s in odeae.Status}:
        yield "unknown status", f"status {status}"
        return
    if not 0.0 <= curve.stop_time <= times[-1]:
        yield "stop_time", f"stop_time {curve.stop_time} of a curve to {times[-1]}"
        return
    # XLA takes subnormal numbers for 0.
    if status == 0 and abs(curve.stop_time - times[-1]) > 1e-307:
        yield "stop_time", f"ok, but stop_time is {curve.stop_time} and not {times[-1]}"
    reached = (times <= curve.stop_time) | (status == 0)
    if status == odeae.Status.UNRESOLVED and curve.stop_time == 0.0:
        reached[:] = False  # nothing was resolved, not even the start
    for name in ("error", "excess", "clean"):
        values = getattr(curve, name)
        if not np.all(np.isfinite(values[reached])):
            at = times[reached][np.argmin(np.isfinite(values[reached]))]
            what = "NaN with status ok" if status == 0 else "NaN before stop_time"
            yield what, f"{name} is NaN at {at:.6g}, status {status}, stopped {curve.stop_time:.6g}"
            return
        if not np.all(np.isnan(values[~reached & (times > curve.stop_time)])):
            yield "finite beyond a failure", f"{name} after {curve.stop_time:.6g}, status {status}"
    pca = float(problem.spectrum.pca_error(c.shape.hidden))
    slack = ROUNDING * np.maximum(curve.scale[reached], pca)
    for name, floor in (("error", pca), ("clean", pca), ("excess", 0.0)):
        below = floor - getattr(curve, name)[reached] - slack
        if np.any(below > 0.0):
            at = int(np.argmax(below))
            text = f"{name} {below[at]:.3g} below at {times[reached][at]:.6g}, PCA {pca:.6g}"
            yield "below PCA", text
    if np.any(np.abs(curve.error - curve.excess - pca)[reached] > 1e3 * slack):
        yield "excess", "excess is not error − PCA error"
    if flow and problems.descends(c):
        e = curve.error[reached]
        rise = np.diff(e)
        # The terms of a badly scaled start may cancel, and then the error is noise.
        allowed = MANY * c.rtol * e[0] + slack[1:] if e.size else 0.0
        if np.any(rise > allowed):
            at = int(np.argmax(rise - allowed))
            text = f"e rises by {rise[at]:.3g} after t={times[reached][at]:.6g}, e(0) = {e[0]:.6g}"
            yield "a descent rises", text


def deviation(
    curve: Curve, tight: Curve, times: np.ndarray, first: float = 0.0
) -> tuple[float, float]:
    """Largest deviation from a tight solve in units of e(0), as far as both came, and where.

    Where a curve has grown, as of Hebb's rule without decay, in units of its error there.
    `first`: the error at t = 0, for times that begin when everything has been learnt.
    """
    both = (times <= min(curve.stop_time, tight.stop_time)) | ((curve.status | tight.status) == 0)
    both &= np.isfinite(curve.error) & np.isfinite(tight.error)
    if not np.any(both):
        return 0.0, 0.0
    start = max(tight.error[both][0], first)
    noise = ROUNDING * (curve.scale + tight.scale)[both]
    unit = np.maximum(start, tight.error[both])  # of a curve that grows, its own size
    gap = np.maximum(np.abs(curve.error - tight.error)[both] - noise, 0.0) / unit
    at = int(np.argmax(gap))
    return float(gap[at]), float(times[both][at])


def _swept(build, grid, block: list[Configuration], **options) -> dict[str, np.ndarray]:
    saved = ["excess", "error_clean", "T0", "Q1", "bias"]
    data = odeae.sweep(build, grid, block[0].times, zip=True, save=saved, chunk=BLOCK, **options)
    return {str(name): data[name].values for name in data.data_vars}


def _traced_block(block: list[Configuration]) -> tuple[list[Configuration], dict, Callable]:
    """A block whose lanes differ in numbers that a sweep can trace; its grid and its build."""
    c = dataclasses.replace(block[0], start="random")
    deviations = [float(np.max(np.abs(b.decoder))) if np.size(b.decoder) else 0.0 for b in block]
    grid = {
        "lr": [b.rates["lr"] for b in block],
        "weight_decay": [b.weight_decay for b in block],
        "noise": [b.noise for b in block],
        "std": deviations,
        "seed": [b.seed for b in block],
    }
    tied = c.shape.tied
    bias = c.bias if c.shape.bias else 0.0
    lanes = [
        dataclasses.replace(
            c, rates={**c.rates, "lr": b.rates["lr"]}, weight_decay=b.weight_decay, noise=b.noise,
            encoder=std, decoder=std, bias=bias, seed=b.seed,
        )
        for b, std in zip(block, deviations, strict=True)
    ]  # fmt: skip
    first = lanes[0].made()[0]
    kind = type(first.rule)

    def build(lr, weight_decay, noise, std, seed):
        rates = {**c.rates, "lr": lr, "weight_decay": weight_decay, "schedule": first.rule.schedule}
        if kind is odeae.SGD:
            rates |= {"truncated": first.rule.truncated, "gradient": first.rule.gradient}
        problem = odeae.Problem(first.spectrum, first.autoencoder, kind(**rates), noise)
        encoder = {} if tied else {"encoder_std": std}
        return problem, odeae.random_state(
            problem, decoder_std=std, bias=bias, seed=seed, **encoder
        )

    return lanes, grid, build


def sweep(seed: int, numbers: list[int], say: Say) -> Done:
    """A block as one sweep: each lane by itself, against a tight solve, some against `predict`."""
    number = numbers[0] // BLOCK
    say(numbers[0])
    block = problems.block_of(seed, KINDS.index("sweep"), number)
    quadrature = block[0].shape.activation in ("tanh", "gelu")
    if (number // len(problems.SHAPES)) % 4 == 3 and block[0].shape.schedule is None:
        block, grid, build = _traced_block(block)
        made = [c.made()[:2] for c in block]
    else:
        made = [c.made()[:2] for c in block]
        grid = {"number": np.arange(len(block))}

        def build(number):
            return made[int(number)]

    times = np.asarray(block[0].times)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = _swept(build, grid, block, rtol=block[0].rtol, max_steps=15_000)
        except Exception as error:
            if refused(block[0], error):
                return Done(0, [])
            text = f"a valid sweep of {block[0].shape.name} raises {first_line(error)}"
            return Done(0, [Fault(numbers[0], "raises", text, block[0].snippet())])
        faults, compared = [], 0
        for i in (n % BLOCK for n in numbers):
            say(number * BLOCK + i)
            c, (problem, state) = block[i], made[i]
            lane = of_lane(c, table, i, float(problem.spectrum.trace))
            found = list(curve_faults(c, problem, lane))
            last, of_last = lane.excess[-1], table["final_excess"][i]
            if lane.status == 0 and np.isfinite(last) and not _equal(of_last, last, lane.scale[-1]):
                found.append(("final_excess", f"{of_last} for {last}"))
            if not (quadrature and i % 8):  # dear, where no average is closed
                with_truth = list(against_tight(c, problem, state, lane))
                compared += (None, "") in with_truth
                found += with_truth
            if i % 16 == 0:
                found += _alone(c, problem, state, lane, times)
            faults += [
                Fault(number * BLOCK + i, what, f"{c.shape.name}: {text}", c.snippet())
                for what, text in found
                if what is not None
            ]
    return Done(compared, faults)


def against_tight(c, problem, state, curve: Curve) -> Iterator[tuple[str | None, str]]:
    """Compare with an explicit solve at tiny tolerances; (None, "") if both came to the end."""
    few = 1000 if c.shape.activation in ("tanh", "gelu") else 10_000
    times = np.asarray(c.times)

    def tight(state):
        t = odeae.predict(problem, state, times, throw=False, max_steps=few, **TIGHT)
        return of_trajectory(c, t)

    truth = tight(state)
    if {curve.status, truth.status} == {0, 1}:
        yield "status", f"status {curve.status}, of a tight solve {truth.status}"
    first = float(problem.error(state))
    gap, at = deviation(curve, truth, times, first)
    if gap > MANY * c.rtol:
        other = tight(problems.perturbed(problem, state, 1e-8, 0))
        condition = deviation(other, truth, times, first)[0] / 1e-8
        what = "default ≠ tight" + (", ill-conditioned" if condition >= MANY else "")
        yield what, f"{gap:.3g} e(0) off at t={at:.6g}, rtol {c.rtol:g}, condition {condition:.2g}"
    if curve.status == truth.status == 0:
        yield None, ""


def _equal(a, b, scale) -> bool:
    return bool(abs(a - b) <= ROUNDING * scale or a == b)


def _alone(c, problem, state, lane: Curve, times) -> Iterator[tuple[str, str]]:
    """Compare a lane with a `predict` of the same."""
    try:
        t = odeae.predict(problem, state, c.times, rtol=c.rtol, throw=False, max_steps=15_000)
    except Exception as error:
        yield "raises", f"predict of a valid problem raises {first_line(error)}"
        return
    alone = of_trajectory(c, t)
    for what, text in curve_faults(c, problem, alone):
        yield what, f"(predict) {text}"
    if alone.status != lane.status:
        yield "lane ≠ predict", f"status {lane.status} of the lane, {alone.status} of predict"
    gap, at = deviation(alone, lane, times)
    if gap > 2.0 * MANY * c.rtol:
        yield "lane ≠ predict", f"{gap:.3g} e(0) apart at t={at:.6g}, rtol {c.rtol:g}"


VARIANTS = ["plain", "two legs", "one time", "densities", "diffusion", "Rodas4", "ensemble"]
FEW = 16  # numbers of a block of `predict` and of the other kinds


def few_of(seed: int, kind: str, number: int, **options) -> tuple[int, Configuration]:
    """Index of the block and configuration `number` of a kind that works on one at a time."""
    block, i = divmod(number, FEW)
    index = KINDS.index(kind)
    shape = problems.shape_of(block)
    times = problems.times_of(np.random.default_rng([seed, index, block, 10**6 + i]), shape)
    return block, problems.draw(
        np.random.default_rng([seed, index, block, i]), shape, times, **options
    )


def predict(seed: int, numbers: list[int], say: Say, ask: bool = True) -> Done:
    """One at a time, and variants of the call; `ask`: with all that a `Trajectory` can tell."""
    faults, compared = [], 0
    for number in numbers:
        say(number)
        block, c = few_of(seed, "predict", number)
        turn = block // len(problems.SHAPES)
        variant = VARIANTS[(turn + block) % len(VARIANTS)] if turn % 2 else "plain"
        if c.shape.hidden > 2 or (variant == "Rodas4" and c.shape.activation in ("tanh", "gelu")):
            variant = "plain"
        if variant == "two legs" and c.shape.schedule is not None:
            variant = "plain"
        found = list(_predicted(c, variant, ask))
        compared += any(what is None for what, _ in found)
        faults += [
            Fault(number, what, f"{c.shape.name}, {variant}: {text}", c.snippet())
            for what, text in found
            if what is not None
        ]
    return Done(compared, faults)


def _predicted(
    c: Configuration, variant: str, ask: bool = True
) -> Iterator[tuple[str | None, str]]:
    """Faults of one predict; (None, "") if it was compared with a tight solve."""
    problem, state, times = c.made()
    options: dict[str, Any] = {"rtol": c.rtol, "max_steps": 15_000}
    if variant == "one time":
        c = problems.with_times(c, [float(times[-1])])
        times = np.asarray(c.times)
    if variant in ("densities", "diffusion"):
        options[variant] = True
    if variant == "Rodas4":
        options |= {"solver": odeae.Rodas4(), "max_steps": 2000}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if variant == "ensemble":
                yield from _ensemble(c, problem, times)
                return
            t = odeae.predict(problem, state, times, throw=False, **options)
        except Exception as error:
            purposely = variant == "diffusion" and complaint(error) is None
            if not (purposely or refused(c, error)):
                yield "raises", f"predict raises {first_line(error)}"
            return
        curve = of_trajectory(c, t)
        yield from curve_faults(c, problem, curve, flow=variant != "diffusion")
        yield from _of_first(c, problem, state, curve)
        if ask:
            yield from _asked(t, curve)
        if curve.status != 0:
            try:
                odeae.predict(problem, state, times, **options)
                yield "status", f"status {curve.status}, but nothing is raised"
            except RuntimeError as error:
                if wrong := complaint(error):
                    yield "message", f"the error of status {curve.status} {wrong}"
        if variant == "two legs":
            yield from _legs(c, problem, curve, t, options)
        if variant in ("plain", "densities", "two legs"):
            yield from against_tight(c, problem, state, curve)


def _of_first(c, problem, state, curve: Curve) -> Iterator[tuple[str, str]]:
    if c.times[0] == 0.0 and np.isfinite(curve.error[0]):
        first = float(problem.error(state))
        if not _equal(first, curve.error[0], curve.scale[0]):
            yield "first error", f"{curve.error[0]!r}, but of the state {first!r}"


def _asked(t: Any, curve: Curve) -> Iterator[tuple[str, str]]:
    """What a user may ask of any trajectory: an answer or one readable line."""
    questions: dict[str, Callable[[], Any]] = {
        "repr": lambda: repr(t),
        "overlaps": lambda: t.overlaps,
        "fit_power_law": lambda: odeae.fit_power_law(t),
        "local_slopes": lambda: odeae.local_slopes(t, "error"),
        "plateaus": lambda: odeae.plateaus(t),
        "mode_map": lambda: odeae.mode_map(t),
    }
    for name, ask in questions.items():
        try:
            answer = ask()
        except Exception as error:
            if wrong := complaint(error):
                yield "question", f"{name} {wrong}: {first_line(error)}"
            continue
        if name == "overlaps" and curve.status == 0:
            for field in ("encoder", "decoder"):
                values = np.asarray(getattr(answer, field))
                if (
                    not np.all(np.isfinite(values))
                    or np.max(np.abs(values), initial=0.0) > 1.0 + 1e-9
                ):
                    yield "overlaps", f"cosines of the {field} beyond [−1, 1] or NaN"
    comparable = t.final is not None and t.final.diffusion is None
    if curve.status == 0 and comparable and np.isfinite(curve.error[-1]):
        last = float(t.problem.error(t.final))
        if not abs(last - curve.error[-1]) <= 1e-9 * curve.scale[-1]:
            yield "final", f"error of `final` {last!r} for {curve.error[-1]!r}"


def _legs(c, problem, curve: Curve, t: Any, options) -> Iterator[tuple[str, str]]:
    """Two legs equal one run, for constant rates."""
    if curve.status != 0 or t.final is None:
        return
    middle = c.times[-1] / 3.0
    if not 0.0 < middle < c.times[-1]:
        return
    first = np.linspace(0.0, middle, len(c.times))
    rest = np.linspace(middle, c.times[-1], len(c.times))  # from the state's own time on
    a = odeae.predict(problem, t.initial, first, throw=False, **options)
    if int(a.status) != 0:
        return
    b = odeae.predict(problem, a.final, rest, throw=False, **options)
    gap = abs(float(b.error[-1]) - curve.error[-1])
    allowed = 2.0 * MANY * c.rtol * curve.error[0] + ROUNDING * curve.scale[-1]
    if int(b.status) == 0 and not gap <= allowed:
        yield "two legs", f"{gap / curve.error[0]:.3g} e(0) from one run, rtol {c.rtol:g}"


def _ensemble(c, problem, times) -> Iterator[tuple[str | None, str]]:
    """Members equal predictions from the same starts."""
    if not isinstance(c.decoder, float):
        return
    std = {"decoder_std": c.decoder} | ({} if c.shape.tied else {"encoder_std": c.encoder})
    t = odeae.ensemble(problem, times, members=2, bias=c.bias, seed=5, rtol=c.rtol, **std)
    for i in range(2):
        state = odeae.random_state(problem, bias=c.bias, seed=5 + i, **std)
        one = of_trajectory(c, odeae.predict(problem, state, times, rtol=c.rtol, throw=False))
        member = Curve(
            np.asarray(t.error)[i], np.asarray(t.excess)[i], np.asarray(t.error)[i], one.scale,
            int(t.status[i]), float(t.stop_time[i]),
        )  # fmt: skip
        gap, at = deviation(member, one, np.asarray(times))
        if gap > 2.0 * MANY * c.rtol:
            yield "ensemble ≠ predict", f"{gap:.3g} e(0) apart at t={at:.6g}"
        if member.status != one.status:
            yield "ensemble ≠ predict", f"status {member.status}, of predict {one.status}"
        for what, text in curve_faults(c, problem, member):
            yield what, f"(ensemble) {text}"


class _Enough(Exception):
    """The second route took too many steps."""


def oracle(seed: int, numbers: list[int], say: Say) -> Done:
    """Weights instead of order parameters, SciPy's DOP853: tests/reference.py, at D = 12."""
    faults, compared = [], 0
    for number in numbers:
        say(number)
        block, i = divmod(number, FEW)
        shapes = [
            s for s in problems.SHAPES if s.activation not in ("tanh", "gelu") and s.bins == (0,)
        ]
        shape = shapes[block % len(shapes)]
        rng = np.random.default_rng([seed, KINDS.index("oracle"), block, i])
        times = np.concatenate([[0.0], np.geomspace(1e-2, 10.0 ** rng.uniform(0.0, 2.0), 23)])
        c = problems.draw(rng, shape, times, small=12)
        problem, state, times = c.made()
        t = odeae.predict(problem, state, times, rtol=c.rtol, throw=False)
        if int(t.status) != 0:
            continue
        try:
            exact = _by_weights(c, problem, state)
        except (_Enough, RuntimeError):
            continue
        if not np.all(np.isfinite(exact)):
            continue  # the second route has no average at a variance of 0
        compared += 1
        gap = np.abs(np.asarray(t.error) - exact) / exact[0]
        at = int(np.argmax(gap))
        if gap[at] > MANY * c.rtol:
            text = (
                f"{c.shape.name}: {gap[at]:.3g} e(0) from DOP853 over weights at t={times[at]:.6g}"
            )
            faults.append(Fault(number, "default ≠ weights", text, c.snippet()))
    return Done(compared, faults)


def _by_weights(c: Configuration, problem, state, most: int = 6000) -> np.ndarray:
    """Error at the times by DOP853 over all modes' weights, to a relative 1e-11.

    Entries that stay 0 in theory are rounding in a quadrature, which no step control should follow.
    """
    s, left = c.shape, [most]
    W, V, b, v0 = odeae.draw_weights(problem, state, 0)
    entries = np.abs(np.concatenate([np.ravel(W), np.ravel(V)]))
    kept = entries[entries > 1e-15 * entries.max()]  # none of weights that are all 0
    atol = min(1e-14, 1e-8 * np.min(kept, initial=1.0))
    plain = reference.drift

    def counted(*args, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise _Enough
        return plain(*args, **keywords)

    rates = c.rates
    encoder, decoder = rates.get("lr_encoder", rates["lr"]), rates.get("lr_decoder", rates["lr"])
    of_bias = rates.get("lr_bias", rates["lr"]) if s.bias else 0.0
    tied = None
    if s.tied and s.rule not in LINEAR_RULES:
        tied = s.rule if s.rule in ("encoder", "decoder") else "full"
    schedule = None if problem.rule.schedule is None else _factor(c)
    reference.drift = counted
    try:
        with np.errstate(all="ignore"):
            return reference.integrate(
                s.activation, problem.spectrum.eigenvalues(), W, V, np.asarray(b), c.times,
                (encoder, decoder, of_bias), c.weight_decay, 1e-11, atol,
                rule=s.rule if s.rule in ("truncated", *LINEAR_RULES) else "sgd",
                tied=tied, gain=c.gain, noise=c.noise, output=v0, schedule=schedule,
                jumps=() if s.schedule != "step" else c.schedule[0],
            )["error"]  # fmt: skip
    finally:
        reference.drift = plain


def _factor(c: Configuration) -> Callable[[float], float]:
    a, b = c.schedule
    if c.shape.schedule == "power":
        return lambda t: (1.0 + t / b) ** -a
    if c.shape.schedule == "step":
        return lambda t: [1.0, *b][sum(t >= x for x in a)]
    return lambda t: b + (1.0 - b) * 0.5 * (1.0 + np.cos(np.pi * min(t / a, 1.0)))


DIM = 12  # of simulations


def simulate(seed: int, numbers: list[int], say: Say) -> Done:
    """Runs at D = 12: status and NaN, PCA, the first error, two legs, the comparison."""
    shapes = [s for s in problems.SHAPES if s.bins == (0,) and s.hidden < 3][:18]
    faults = []
    for number in numbers:
        say(number)
        block, i = divmod(number, FEW)
        shape = shapes[block % len(shapes)]
        rng = np.random.default_rng([seed, KINDS.index("simulate"), block, i])
        # More times than a simulation has, as the schedules' jumps are drawn from them.
        times = np.round(np.linspace(0.0, 2.0, problems.TIMES) * DIM) / DIM
        c = problems.draw(rng, shape, times, small=0 if i % 2 else DIM)
        wide = DIM - shape.spikes
        c = dataclasses.replace(c, multiplicity=[wide], start=c.start)
        c = problems.with_times(c, [0.0, 1.0, 2.0])
        call = "odeae.simulate(problem, state, times, runs=2, test_samples=5)"
        try:
            found = list(_simulated(c))
        except Exception as error:
            found = [("raises", f"simulate of a valid problem raises {first_line(error)}")]
        script = c.snippet(call)
        faults += [Fault(number, what, f"{c.shape.name}: {text}", script) for what, text in found]
    return Done(0, faults)


def _simulated(c: Configuration) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem, state, times = c.made()
        options = {"runs": 2, "test_samples": 5, "seed": c.seed % 1000}
        runs = odeae.simulate(problem, state, times, **options)
        trace, pca = problem.spectrum.trace, float(problem.spectrum.pca_error(c.shape.hidden))
        scale = scale_of(c, runs.T0, runs.Q1, runs.bias, trace)
        for run in range(2):
            curve = Curve(
                runs.error[run], runs.excess[run], np.asarray(runs.error_clean)[run], scale[run],
                int(runs.status[run]), float(runs.stop_time[run]),
            )  # fmt: skip
            if not np.array_equal(np.isnan(runs.test_error[run]), np.isnan(curve.error)):
                yield "simulation", "test_error and error are NaN at different times"
            # A descent in the mean needn't descend.
            for what, text in curve_faults(c, problem, curve):
                if what not in ("a descent rises", "excess"):
                    yield what, f"run {run}: {text}"
        slack = 1e-9 * scale[:, 0]
        first = float(problem.error(state))
        if np.any(np.abs(runs.error[:, 0] - first) > slack):
            yield "first error", f"runs start at {runs.error[:, 0]}, the state has {first!r}"
        half = odeae.simulate(problem, state, times[:2], **options)
        try:
            rest = odeae.simulate(problem, None, times[2:], weights=half.weights, test_samples=5)
            if np.all(runs.status == 0) and not np.array_equal(rest.error[:, 0], runs.error[:, -1]):
                yield "two legs", f"{rest.error[:, 0]} for {runs.error[:, -1]}"
        except ValueError as error:  # of runs that have diverged
            if np.all(half.status == 0) or complaint(error):
                yield "raises", f"going on raises {first_line(error)}"
        try:
            theory = odeae.predict(problem, state, runs.times, throw=False)
            verdict = odeae.compare(theory, runs)
            repr(verdict), str(verdict)
        except Exception as error:
            if wrong := complaint(error):
                yield "question", f"compare {wrong}: {first_line(error)}"
        if not pca >= 0.0:
            yield "PCA", f"PCA error {pca}"


def files(seed: int, numbers: list[int], say: Say) -> Done:
    """What is saved, pickled, copied or drawn comes back; a damaged file is refused or harmless."""
    faults = []
    for number in numbers:
        say(number)
        rng = np.random.default_rng([seed, KINDS.index("files"), number])
        block, _ = divmod(number, FEW)
        shape = problems.SHAPES[block % 6]
        times = problems.times_of(rng, shape)
        c = problems.draw(rng, shape, times)
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
                warnings.simplefilter("ignore")
                found = list(_round_trip(c, rng, Path(folder)))
        except Exception as error:
            text = f"a round trip raises {first_line(error)}"
            found = [] if refused(c, error) else [("raises", text)]
        faults += [Fault(number, what, text, c.snippet()) for what, text in found]
    return Done(0, faults)


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same numbers, to the last bit, NaN where NaN."""
    ours, theirs = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(ours) == len(theirs) and all(
        np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True)
        for x, y in zip(ours, theirs, strict=True)
        if not callable(x)
    )


def _round_trip(c: Configuration, rng, folder: Path) -> Iterator[tuple[str, str]]:
    problem, state, times = c.made()
    t = odeae.predict(problem, state, times, throw=False, max_steps=15_000)
    path = folder / "x.nc"
    t.save(path)
    back = odeae.load(path)
    if not same(t, back):
        yield "round trip", "load gives other numbers than were saved"
    if repr(t) != repr(back):
        yield "round trip", f"load gives {repr(back)!r:.100}"
    odeae.save_all(folder / "two.nc", {"a": t, "b": back})
    if not same(t, odeae.load(folder / "two.nc", group="b")):
        yield "round trip", "a group gives other numbers than were saved"
    for name, copied in (
        ("pickle", lambda x: pickle.loads(pickle.dumps(x))),
        ("deepcopy", copy.deepcopy),
    ):
        for what, x in (("problem", problem), ("state", state), ("trajectory", t)):
            try:
                if not same(x, copied(x)):
                    yield "round trip", f"{name} of a {what} gives other numbers"
            except Exception as error:
                yield "round trip", f"{name} of a {what} raises {first_line(error)}"
    if problem.spectrum.dim <= 500:
        W, V, b, v0 = odeae.draw_weights(problem, state, 1)
        W = None if c.shape.tied else W
        again = odeae.state_from_weights(problem, W, V, b, v0)
        for x, y in zip(
            jax.tree.leaves(problem.order_parameters(state).total()),
            jax.tree.leaves(problem.order_parameters(again).total()),
            strict=True,
        ):
            if np.any(np.abs(x - y) > 1e-10 * np.max(np.abs(x), initial=1e-300)):
                yield "round trip", "weights drawn for a state give other order parameters"
    saved = path.read_bytes()
    for trial in range(4):
        where = int(rng.integers(len(saved)))
        damaged = bytearray(saved)
        if trial == 0:
            damaged = damaged[:where]
        else:
            damaged[where] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        how = "cut" if trial == 0 else "bit flipped"
        try:
            with no_stray_traceback() as stray:
                back = odeae.load(path)
        except Exception as error:
            if stray:
                yield "stray traceback", f"{how} at {where} of {len(saved)}: {stray[0]}"
            if wrong := complaint(error):
                yield (
                    "damaged file",
                    f"{how} at {where} of {len(saved)}: {wrong}: {first_line(error)}",
                )
            continue
        if not same(t, back):
            yield "damaged file, other numbers", f"{how} at {where} of {len(saved)}: other numbers"


@contextlib.contextmanager
def no_stray_traceback() -> Iterator[list[str]]:
    """Collect what Python would print of errors that nobody can catch, as in a `__del__`."""
    stray: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda u: stray.append(repr(u.exc_value))
    try:
        yield stray
    finally:
        gc.collect(0)
        sys.unraisablehook = before


NAMED: dict[str, Callable[[], tuple]] = {}  # name → problem, state, times, exact error or None


def _named(function):
    NAMED[function.__name__] = function
    return function


def _problem(spikes=(1.0, 0.6, 0.3), hidden=3, activation="linear", bulk=1.0, rule=None, **network):
    spectrum = odeae.Spectrum.spiked(spikes, dim=1000, bulk=bulk)
    return odeae.Problem(spectrum, odeae.Autoencoder(hidden, activation, **network), rule)


def _from_large_weights(std):
    problem = _problem(tied=True)
    state = odeae.random_state(problem, decoder_std=std)
    return problem, state, np.linspace(0.0, 700.0, 71), None


for _std in (1.0, 2.0, 3.0, 5.0):
    NAMED[f"tied linear, decoder_std={_std:g}"] = functools.partial(_from_large_weights, _std)


@_named
def decayed_and_frozen():
    """Erf under decay: after a stretch without learning the rows grow again from 1e-20."""
    rule = odeae.SGD(weight_decay=0.1, schedule=odeae.StepSchedule([50.0, 400.0], [0.0, 1.0]))
    problem = _problem((1.0, 0.6), 2, "erf", rule=rule)
    return problem, odeae.random_state(problem), np.linspace(0.0, 500.0, 51), None


def _from_saddle(exponent):
    """Aligned linear neurons from `eps`: the logistic curve, s' = 2ρ s(1 − s), e = ½Σρ(1 − s)²."""
    eps, rho = 10.0**exponent, np.array([1.0, 0.6])
    problem = _problem(rho, 2, bulk=0.0)
    state = odeae.aligned_state(problem, [1.0, eps], [1.0, eps])
    end = 1.2 * (-np.log(eps)) / rho[1] + 20.0
    times, start = np.linspace(0.0, end, 101), np.array([1.0, eps]) ** 2
    grown = np.exp(-2.0 * rho * times[:, None])
    s = start / (start + (1.0 - start) * grown)
    return problem, state, times, 0.5 * np.sum(rho * (1.0 - s) ** 2, axis=1)


for _exponent in (-2, -4, -8, -10, -14, -20, -30, -40):
    NAMED[f"saddle, eps=1e{_exponent}"] = functools.partial(_from_saddle, _exponent)


@_named
def jump_at_the_last_time():
    """A schedule that jumps where the curve ends."""
    rule = odeae.SGD(schedule=odeae.StepSchedule([0.01], [0.5]))
    problem = _problem((1.0, 0.6), 2, "erf", rule=rule)
    return problem, odeae.random_state(problem), np.array([0.0, 0.001, 0.01]), None


@_named
def cosine_that_ends_at_once():
    """The same for a cosine, in one step."""
    problem = _problem((1.0, 0.6), 2, "erf", rule=odeae.SGD(schedule=odeae.CosineSchedule(1e-5)))
    return problem, odeae.random_state(problem), np.array([0.0, 5e-6, 1e-5]), None


@_named
def frozen_encoder():
    """An encoder without a rate and without spikes in it."""
    rule = odeae.SGD(lr_encoder=0.0, weight_decay=10.0)
    problem = _problem((1.0, 0.6), 2, "erf", rule=rule)
    state = odeae.aligned_state(problem, [1.0, 0.0], [0.0, 1e-30])
    return problem, state, np.linspace(0.0, 30.0, 31), None


def named(seed: int, numbers: list[int], say: Say) -> Done:
    """Cases that went wrong once."""
    faults, compared, names = [], 0, list(NAMED)
    for number in numbers:
        say(number)
        name = names[number]
        problem, state, times, exact = NAMED[name]()

        def solved(name=name, problem=problem, state=state, times=times, **options):
            return odeae.predict(problem, state, times, throw=False, **options)

        t = solved()
        status = int(t.status)
        if exact is None:
            exact = np.asarray(solved(max_steps=300_000, **TIGHT, solver=_dopri8()).error)
        gap = np.abs(np.asarray(t.error) - exact) / exact[0]
        script = f"# fuzz_checks.NAMED[{name!r}]"
        if status == 0 and not np.all(np.isfinite(t.error)):
            faults.append(Fault(number, "NaN with status ok", name, script))
        elif status not in (0, odeae.Status.REGROWN):  # that one is said, and NaN afterwards
            faults.append(Fault(number, "status", f"{name}: status {status}", script))
        elif not np.nanmax(gap) <= MANY * 1e-6:
            at = times[int(np.nanargmax(gap))]
            text = f"{name}: {np.nanmax(gap):.3g} e(0) off at t={at:.6g}"
            faults.append(Fault(number, "default ≠ tight", text, script))
        compared += 1
    return Done(compared, faults)


def _dopri8():
    import diffrax

    return diffrax.Dopri8()
