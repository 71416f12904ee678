"""Names of the curves in one plot, from the differences between their problems or starts."""

import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np

from odeae.averages.quadrature import Quadrature
from odeae.results.several import ENSEMBLE
from odeae.results.trajectory import Trajectory

_OF_SPECTRUM = ("D", "spikes", "bulk", "tr Ω/D")


class Curve(NamedTuple):
    """A curve that is drawn in one colour: a trajectory, or one of its lanes."""

    trajectory: Trajectory
    lane: int | None = None

    @property
    def is_theory(self) -> bool:
        """Whether the curve is a line or a band, not points."""
        return self.trajectory.source.startswith("theory")

    def own(self, values: Any, ndim: int) -> np.ndarray:
        """Return the values of this lane; a single curve has `ndim` axes of values."""
        values = np.asarray(values)
        if values.ndim <= ndim:
            return values
        return np.asarray(values.reshape(-1, *values.shape[values.ndim - ndim :])[self.lane or 0])

    def words(self) -> dict[str, Any]:
        """Return the properties of the problem by name: numbers, None, or self-explaining words."""
        problem = self.trajectory.problem
        network, rule, spectrum = problem.autoencoder, problem.rule, problem.spectrum
        words: dict[str, Any] = {
            "K": network.hidden,
            "activation": _activation_word(network.activation),
            "tied": "tied" if network.tied else "untied",
            "gain": self._number(network.gain),
            "bias": "biases" if network.bias else "no biases",
            "output bias": "output bias" if network.output_bias else "no output bias",
            "rule": rule.title,
        }
        for name in ("lr", "lr_encoder", "lr_decoder", "lr_bias", "weight_decay"):
            words[name] = self._number(getattr(rule, name, None))
        words["schedule"] = self._schedule_words(rule.schedule)
        words["noise"] = self._number(problem.noise)
        words["D"] = spectrum.dim
        spikes, bulk = self.own(spectrum.spikes, 1), self.own(spectrum.bulk, 1)
        words["spikes"] = _listed("spikes", np.sort(spikes)[::-1])
        words["bulk"] = _listed("bulk", bulk)
        words["tr Ω/D"] = float(
            spikes.sum() + bulk @ np.array(spectrum.multiplicity, float) / words["D"]
        )
        return words

    def settings(self) -> dict[str, Any]:
        """Return how the curve was solved, as far as this changes the curve."""
        if not self.is_theory:
            return {}
        settings = json.loads(self.trajectory.settings)
        diffuses = "with diffusion" if settings.get("diffusion") else "without diffusion"
        return {"diffusion": diffuses, "rtol": settings.get("rtol")}

    def levels(self) -> np.ndarray:
        """Return the PCA errors of rank 0 … K, (K + 1,)."""
        problem = self.trajectory.problem
        return self.own(problem.spectrum.pca_errors(problem.autoencoder.hidden), 1)

    def same_problem(self, other: "Curve") -> bool:
        """Return whether all properties with a name are equal."""
        return _texts(self.words()) == _texts(other.words())

    def same_start(self, other: "Curve") -> bool:
        """Return whether spikes and biases at the start are equal, or unknown for one curve."""
        a, b = self.trajectory.initial, other.trajectory.initial
        if a is None or b is None or ENSEMBLE in (self.trajectory.source, other.trajectory.source):
            return True
        parts = (
            (self.own(x, ndim), other.own(y, ndim))
            for x, y, ndim in (
                (a.spikes.encoder, b.spikes.encoder, 2),
                (a.spikes.decoder, b.spikes.decoder, 2),
                (a.bias, b.bias, 1),
            )
        )
        return all(x.shape == y.shape and np.allclose(x, y, rtol=1e-9) for x, y in parts)

    def _number(self, value: Any) -> Any:
        return None if value is None else float(self.own(value, 0))

    def _schedule_words(self, schedule: Any) -> str:
        if schedule is None:
            return "constant rate"
        if hasattr(schedule, "fn"):
            return f"schedule {getattr(schedule.fn, '__name__', 'of your own')}"
        values = (
            _listed(f.name, np.atleast_1d(self.own(getattr(schedule, f.name), 1)))
            for f in dataclasses.fields(schedule)
        )
        return f"{type(schedule).__name__.removesuffix('Schedule')} schedule, {', '.join(values)}"


def curves_of(trajectory: Trajectory) -> list[Curve]:
    """Return the lanes of a theory as single curves if their problems differ, else as one curve."""
    batch = np.shape(trajectory.error)[:-1]
    if trajectory.source != "theory" or not batch:
        return [Curve(trajectory)]
    lanes = [Curve(trajectory, i) for i in range(int(np.prod(batch)))]
    alike = all(lane.same_problem(lanes[0]) for lane in lanes[1:])
    return [Curve(trajectory)] if alike else lanes


def grouped(curves: list[Curve]) -> list[int]:
    """Return which of the colours 0, 1, … each curve has.

    Each line or band has its own colour. If there are several, the runs of a problem have the
    colour of its theory.
    """
    theory = [i for i, curve in enumerate(curves) if curve.is_theory]
    owners = sorted(theory, key=lambda i: curves[i].trajectory.source == ENSEMBLE)
    group, count = dict(zip(theory, range(len(theory)), strict=True)), len(theory)
    for i, curve in enumerate(curves):
        if curve.is_theory:
            continue
        own = [j for j in owners if curve.same_problem(curves[j]) and curve.same_start(curves[j])]
        if len(theory) > 1 and own:
            group[i] = group[own[0]]
        else:
            group[i], count = count, count + 1
    return [group[i] for i in range(len(curves))]


class Names(NamedTuple):
    """The names of curves.

    Attributes:
        texts: The name of each curve; "" for all if nothing differs.
        quantity: The name of the number in which the curves differ, if they differ in one number.
        values: This number for each curve, else None.
    """

    texts: list[str]
    quantity: str | None = None
    values: np.ndarray | None = None


def names_of(curves: list[Curve]) -> Names:
    """Name curves by their differences: K = 1, K = 2, or erf, relu, or start 1, start 2.

    Eigenvalues are named only if D doesn't tell curves apart, and the way in which they were solved
    only if nothing else differs.
    """
    words = [curve.words() for curve in curves]
    differing = _differing(words)
    chosen = [name for name in differing if name not in _OF_SPECTRUM]
    for name in _OF_SPECTRUM:
        if name in differing and _kinds(words, [*chosen, name]) > _kinds(words, chosen):
            chosen.append(name)
    settings = [curve.settings() for curve in curves]
    if not chosen and all(settings):
        words, chosen = settings, _differing(settings)
    values = {name: [_value(name, own) for own in words] for name in chosen}
    named = [_named(name, values[name]) for name in chosen]
    texts = [", ".join(part for part in parts if part) for parts in zip(*named, strict=True)]
    texts = texts or [""] * len(curves)
    if len(set(texts)) == len(texts) and len(chosen) == 1:
        (numbers,) = values.values()
        if all(isinstance(value, float | int) for value in numbers):
            return Names(texts, chosen[0], np.asarray(numbers, float))
    return _numbered(curves, texts)


def _numbered(curves: list[Curve], texts: list[str]) -> Names:
    """Number curves of one kind that would have the same name: start 1, start 2 …, theory 1 …"""
    kinds = [(text, c.trajectory.source) for c, text in zip(curves, texts, strict=True)]
    numbered, count, what = [], [], ""
    for i, (curve, text) in enumerate(zip(curves, texts, strict=True)):
        same = [j for j, kind in enumerate(kinds) if kind == kinds[i]]
        count.append(same.index(i) + 1)
        if len(same) == 1:
            numbered.append(text)
            continue
        starts = not any(curve.same_start(curves[j]) for j in same if j != i)
        what = "start" if starts else "theory" if curve.is_theory else "simulation"
        numbered.append(f"{text}, {what} {count[-1]}" if text else f"{what} {count[-1]}")
    if len(set(count)) == len(curves) > 1 and not any(texts):
        return Names(numbered, what, np.asarray(count, float))
    return Names(numbered)


def _differing(words: list[dict[str, Any]]) -> list[str]:
    """Return the names whose values differ."""
    names = dict.fromkeys(name for own in words for name in own)
    return [n for n in names if len({_texts(own).get(n) for own in words}) > 1]


def _kinds(words: list[dict[str, Any]], names: list[str]) -> int:
    return len({tuple(_texts(own).get(name) for name in names) for own in words})


def _texts(words: dict[str, Any]) -> dict[str, str]:
    """Return texts that are equal for numbers that are equal to nine digits."""
    return {n: f"{x:.9g}" if isinstance(x, float | int) else str(x) for n, x in words.items()}


def _value(name: str, words: dict[str, Any]) -> Any:
    """Return the value of a name; a rate that was not given is `lr`."""
    value = words.get(name)
    return words.get("lr") if value is None and name.startswith("lr_") else value


def _named(name: str, values: list[Any]) -> list[str]:
    """Return texts such as K = 1, with as few digits as tell rates apart, or the words alone."""
    rates = {value for value in values if isinstance(value, float)}
    digits = next((d for d in (3, 4, 6) if len({f"{x:.{d}g}" for x in rates}) == len(rates)), 9)
    return [
        f"{name} = {x:.{digits}g}"
        if isinstance(x, float)
        else f"{name} = {x}"
        if isinstance(x, int)
        else x or ""
        for x in values
    ]


def _listed(name: str, values: np.ndarray) -> str:
    """Return a text such as spikes 1, 0.6, 0.3, with the first four values."""
    more = ", …" if len(values) > 4 else ""
    return f"{name} {', '.join(f'{value:.4g}' for value in values[:4])}{more}"


def _activation_word(activation: Any) -> str:
    name = activation.name
    if isinstance(activation, Quadrature) and name == "own function":
        return getattr(activation.fn, "__name__", name)
    return name
