"""`Trajectory`: what theory and simulation return; printing, xarray, files."""

import dataclasses
import enum
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

import odeae
from odeae.activations import NAMED_FUNCTIONS, AbstractActivation, Quadrature
from odeae.checks import scalar, whole
from odeae.files import writing
from odeae.precision import Real, is_traced
from odeae.problem import Autoencoder, Problem
from odeae.rules import SGD, Weights
from odeae.spectrum import Spectrum
from odeae.state import Densities, ModeDensities, OrderParameters, Overlaps

if TYPE_CHECKING:
    import xarray


class Status(enum.IntEnum):
    """How a solve ended; the curve is NaN after `stop_time` unless OK."""

    OK = 0
    DIVERGED = 1
    BUDGET = 2
    UNRESOLVED = 3

    def message(self, stop_time: float) -> str:
        """One line for people, with the remedy."""
        if self is Status.OK:
            return "ok"
        cause = {
            Status.DIVERGED: "diverged; the weights or their rates of change stopped being finite: "
            "check the rates and the initial state",
            Status.BUDGET: "spent its step budget; give a larger `max_steps`, a looser `rtol`, or "
            "an implicit `solver`",
            Status.UNRESOLVED: "left the range of field variances that the Quadrature resolves; "
            "construct it with a larger `q_max`",
        }[self]
        return f"stopped at t={stop_time:.4g}: {cause}"


class Checkpoint(eqx.Module):
    """Where simulated runs stand: weights (runs, K, D) in the eigenbasis, steps done, seed.

    Pass it to `simulate(..., weights=...)` to go on exactly as if the runs had not been stopped.
    """

    weights: Weights
    step: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)


class Trajectory(eqx.Module):
    """A learning curve with its order parameters, from `predict` or `simulate`.

    Shapes are those of one curve; runs of a simulation (and lanes under `jax.vmap`) lead with
    their own axis everywhere but in `times`.

    `times` (T,): steps/D. `error` (T,): generalisation error ‖x − x̂‖²/(2D), averaged over
    Gaussian x. `order_parameters`: split into spikes and bulk, each (T, K, K). `bias` (T, K).
    `test_error` (T,): the same error on held-out samples (simulation). `densities`: on request.
    `status`: a `Status` value, `stop_time`: the time that was reached. `weights`: what a
    simulation ended with, to be resumed. `samples`: what the inputs of a simulation were.
    """

    times: Float[Real, " times"]
    error: Float[Real, "*batch times"]
    order_parameters: OrderParameters
    bias: Float[Real, "*batch times hidden"]
    status: Int[Real, "*batch"]
    stop_time: Float[Real, "*batch"]
    problem: Problem
    test_error: Float[Real, "*batch times"] | None = None
    densities: Densities | None = None
    weights: Checkpoint | None = None
    source: str = eqx.field(static=True, default="theory")

    @property
    def Q1(self) -> Real:
        """W Ω Wᵀ/D, (…, T, K, K)."""
        return self.order_parameters.spikes.Q1 + self.order_parameters.bulk.Q1

    @property
    def R1(self) -> Real:
        """R1[k, l] = v_k Ω w_l/D^{3/2}, (…, T, K, K)."""
        return self.order_parameters.spikes.R1 + self.order_parameters.bulk.R1

    @property
    def T1(self) -> Real:
        """V Ω Vᵀ/D², (…, T, K, K)."""
        return self.order_parameters.spikes.T1 + self.order_parameters.bulk.T1

    @property
    def T0(self) -> Real:
        """V Vᵀ/D, (…, T, K, K)."""
        return self.order_parameters.spikes.T0 + self.order_parameters.bulk.T0

    @property
    def excess(self) -> Real:
        """Error above the PCA error of rank K, by subtraction (absolute accuracy of `error`)."""
        rank = self.problem.autoencoder.hidden
        return self.error - np.asarray(self.problem.spectrum.pca_error(rank))[..., None]

    def __repr__(self):
        problem = self.problem
        network, dim = problem.autoencoder, problem.spectrum.dim
        head = f"{_activation_name(network.activation)}, K={network.hidden}, D={dim}"
        if is_traced(self):
            return f"Trajectory({self.source}, {head}, traced)"
        error, times = np.asarray(self.error), _first(self.times, 1)
        count, span = len(times), f"t = {times[0]:.4g} … {times[-1]:.4g}"
        batch = self.error.shape[:-1]
        many = "" if not batch else f", {int(np.prod(batch))} {self._batch_name}s"
        lines = [f"Trajectory: {self.source}, {head}{many}, {count} times, {span}"]
        final, first = error[..., -1].ravel(), error[..., 0].ravel()
        if not batch:
            lines.append(f"  error    {first[0]:.6g} → {final[0]:.6g}")
        else:
            spread = f" (from {np.min(final):.4g} to {np.max(final):.4g})"
            lines.append(
                f"  error    {np.mean(first):.6g} → {np.mean(final):.6g} on average{spread}"
            )
        levels = self.pca_levels()
        if levels is not None:
            lines.append(
                f"  PCA      {levels[-1]:.6g} at rank {network.hidden}, {levels[0]:.6g} at rank 0"
            )
        codes, stops = np.ravel(self.status), np.ravel(self.stop_time)
        bad = np.flatnonzero(codes != Status.OK)
        if len(bad) == 0:
            lines.append("  status   ok")
        else:
            which = "" if not batch else f"{len(bad)} of {len(codes)} failed, the first "
            lines.append(
                f"  status   {which}{Status(int(codes[bad[0]])).message(float(stops[bad[0]]))}"
            )
        return "\n".join(lines)

    def pca_levels(self) -> np.ndarray | None:
        """PCA errors of rank 0 … K, (K + 1,); None for lanes of different spectra."""
        levels = np.asarray(self.problem.spectrum.pca_errors(self.problem.autoencoder.hidden))
        first = _first(levels, 1)
        return first if np.all(levels == first) else None

    @property
    def _batch_name(self) -> str:
        return "lane" if self.source == "theory" else "run"

    def plot(self, ax: Any = None, **kwargs: Any) -> Any:
        """Draw the error curve with the PCA levels; returns the Axes. See `odeae.plot`."""
        from odeae.plotting import plot

        return plot(self, ax=ax, **kwargs)

    def plot_order_parameters(self, axes: Any = None) -> Any:
        """Draw Q1, R1, T1, T0 in four panels; returns the array of Axes."""
        from odeae.plotting import plot_order_parameters

        return plot_order_parameters(self, axes=axes)

    def to_xarray(self) -> "xarray.Dataset":
        """Everything as an `xarray.Dataset`: dims `time`, `k`, `l` (and `run` or `lane`).

        `Q1`, `R1`, `T1`, `T0` are totals, `Q1_spikes`, `Q1_bulk`, … their parts. Units stand in
        the variables' attributes; the configuration, as JSON, in the attribute `problem`, the
        spectrum in `spectrum_…`. The eigenvectors of the spectrum are not part of a curve.
        """
        import xarray as xr

        batch = tuple(
            self._batch_name if i == 0 else f"{self._batch_name}_{i}"
            for i in range(self.error.ndim - 1)
        )
        pair, spectrum = ("time", "k", "l"), self.problem.spectrum
        data: dict[str, Any] = {
            "error": ((*batch, "time"), self.error),
            "bias": ((*batch, "time", "k"), self.bias),
            "status": (batch, self.status),
            "stop_time": (batch, self.stop_time),
        }
        if self.test_error is not None:
            data["test_error"] = ((*batch, "time"), self.test_error)
        for name in ("Q1", "R1", "T1", "T0"):
            data[name] = ((*batch, *pair), getattr(self, name))
            for part in ("spikes", "bulk"):
                values = getattr(getattr(self.order_parameters, part), name)
                data[f"{name}_{part}"] = ((*batch, *pair), values)
        if self.densities is not None:
            for part, dim in (("spikes", "spike"), ("bulk", "bin")):
                for name in ("q", "r", "t"):
                    values = getattr(getattr(self.densities, part), name)
                    data[f"{name}_{part}"] = ((*batch, "time", dim, "k", "l"), values)
        if self.weights is not None:
            for name, dims in (
                ("encoder", ("k", "mode")),
                ("decoder", ("k", "mode")),
                ("bias", "k"),
            ):
                values = getattr(self.weights.weights, name)
                data[f"weights_{name}"] = ((*batch, *dims), values)
        lumped = {
            "spikes": "spike",
            "bulk": "bin",
            "order": "mode",
            "given": "mode",
            "mean": "mode",
        }
        for name, dim in lumped.items():
            values = getattr(spectrum, name)
            if values is not None:
                data[f"spectrum_{name}"] = ((*batch[: np.ndim(values) - 1], dim), values)
        data["spectrum_multiplicity"] = ("bin", np.asarray(spectrum.multiplicity, np.int64))
        dataset = xr.Dataset(
            {name: (dims, np.asarray(values)) for name, (dims, values) in data.items()},
            coords={"time": _first(self.times, 1)},
        )
        for name, (unit, text) in _UNITS.items():
            if name in dataset.variables:
                dataset[name].attrs = {"units": unit, "long_name": text}
        dataset["status"].attrs = {
            "flag_values": [int(s) for s in Status],
            "flag_meanings": " ".join(s.name for s in Status),
        }
        dataset.attrs = {
            "source": self.source,
            "problem": json.dumps(_describe(self.problem)),
            "odeae_version": odeae.__version__,
            "reference": "Refinetti & Goldt, ICML 2022, arXiv:2201.02115",
        }
        if self.weights is not None:
            dataset.attrs |= {"step": self.weights.step, "seed": self.weights.seed}
        return dataset

    def save(
        self, path: str | os.PathLike, overwrite: bool = False, group: str | None = None
    ) -> None:
        """Write the dataset of `to_xarray` to a netCDF file, whole or not at all.

        `group`: save under this name, so that one file can hold several curves (see `save_all`).
        Raises `OSError` kinds for an existing file (unless `overwrite`), a missing or unwritable
        folder.
        """
        save_all(path, {group: self}, overwrite)


def save_all(
    path: str | os.PathLike, trajectories: dict[str | None, Trajectory], overwrite: bool = False
) -> None:
    """Write several trajectories to one netCDF file, each in the group of its name."""
    with writing(path, overwrite) as temporary:
        for i, (group, trajectory) in enumerate(trajectories.items()):
            trajectory.to_xarray().to_netcdf(
                temporary, mode="w" if i == 0 else "a", group=group, engine="h5netcdf"
            )


def load(path: str | os.PathLike, group: str | None = None, activation: Any = None) -> Trajectory:
    """Return the `Trajectory` that was saved at `path` (in `group`).

    `activation`: needed only if the network had a `Quadrature` of a function of your own, which a
    file can't hold. Raises `FileNotFoundError`, and `ValueError` for files that odeae didn't write.
    """
    import xarray as xr

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        with xr.open_dataset(path, group=group, engine="h5netcdf") as opened:
            data = opened.load()
    except (OSError, ValueError, KeyError) as error:
        where = "" if group is None else f" (group {group!r})"
        raise ValueError(f"can't read {str(path)!r}{where} as netCDF: {error}") from error
    if "problem" not in data.attrs:
        raise ValueError(
            f"{str(path)!r} holds no odeae trajectory"
            + (" here; its curves may be in groups: pass group=..." if group is None else "")
        )

    def get(name: str) -> Any:
        return data[name].values if name in data.variables else None

    parts = {
        part: Overlaps(*(get(f"{name}_{part}") for name in ("Q1", "R1", "T1", "T0")))
        for part in ("spikes", "bulk")
    }
    spectrum = Spectrum.__new__(Spectrum)
    for name in ("spikes", "bulk", "order", "given", "mean"):
        object.__setattr__(spectrum, name, get(f"spectrum_{name}"))
    object.__setattr__(spectrum, "basis", None)
    counts = tuple(int(m) for m in data["spectrum_multiplicity"].values)
    object.__setattr__(spectrum, "multiplicity", counts)
    saved = None
    if "q_spikes" in data.variables:
        kinds = [ModeDensities(*(get(f"{n}_{p}") for n in "qrt")) for p in ("spikes", "bulk")]
        saved = Densities(*kinds)
    checkpoint = None
    if "weights_encoder" in data.variables:
        weights = Weights(*(get(f"weights_{name}") for name in ("encoder", "decoder", "bias")))
        checkpoint = Checkpoint(weights, int(data.attrs["step"]), int(data.attrs["seed"]))
    return Trajectory(
        get("time"),
        get("error"),
        OrderParameters(parts["spikes"], parts["bulk"]),
        get("bias"),
        get("status"),
        get("stop_time"),
        _problem(json.loads(data.attrs["problem"]), spectrum, activation),
        get("test_error"),
        saved,
        checkpoint,
        data.attrs["source"],
    )


_UNITS = {
    "time": ("steps/D", "time"),
    "error": ("variance per input dimension / 2", "generalisation error ‖x − x̂‖²/(2D)"),
    "test_error": ("variance per input dimension / 2", "‖x − x̂‖²/(2D) on held-out samples"),
    "Q1": ("1", "W Ω Wᵀ/D"),
    "R1": ("1", "V Ω Wᵀ/D^{3/2}, [k, l] = v_k Ω w_l"),
    "T1": ("1", "V Ω Vᵀ/D²"),
    "T0": ("1", "V Vᵀ/D"),
    "bias": ("1", "hidden bias"),
    "stop_time": ("steps/D", "time that was reached"),
    "spectrum_spikes": ("variance/D", "scaled eigenvalue of each spike"),
    "spectrum_bulk": ("variance", "eigenvalue of each bulk bin"),
}


def _first(values: Any, ndim: int) -> np.ndarray:
    """The first of batched values, which vmap has also given to what all lanes share."""
    values = np.asarray(values)
    while values.ndim > ndim:
        values = values[0]
    return values


def _number(value: Any) -> Any:
    return np.asarray(value).tolist()


def _activation_name(activation: AbstractActivation) -> str:
    if isinstance(activation, Quadrature):
        return next((n for n, f in NAMED_FUNCTIONS.items() if f is activation.fn), "own function")
    return type(activation).__name__.lower()


def _describe(problem: Problem) -> dict[str, Any]:
    """All of a problem but its spectrum, in JSON's types."""
    network, rule = problem.autoencoder, problem.rule
    activation: dict[str, Any] = {"name": _activation_name(network.activation)}
    if isinstance(network.activation, Quadrature):
        activation |= {"scale": network.activation.scale, "q_max": network.activation.q_max}
    return {
        "hidden": network.hidden,
        "bias": network.bias,
        "activation": activation,
        "rule": {"name": type(rule).__name__}
        | {f.name: _number(getattr(rule, f.name)) for f in dataclasses.fields(rule)},
    }


def _problem(config: dict[str, Any], spectrum: Spectrum, activation: Any) -> Problem:
    kind = dict(config["activation"])
    name = kind.pop("name")
    if activation is None and name == "own function":
        raise ValueError(
            "this trajectory's network had a Quadrature of its own function, which a file can't "
            "hold: pass it as load(..., activation=odeae.Quadrature(fn))"
        )
    if activation is None and kind:
        activation = Quadrature(NAMED_FUNCTIONS[name], **kind)
    network = Autoencoder(config["hidden"], activation or name, bias=config["bias"])
    kind = dict(config["rule"])
    rule = {"SGD": SGD}[kind.pop("name")].__new__(SGD)
    for field, value in kind.items():
        object.__setattr__(rule, field, np.asarray(value, np.float64))
    problem = Problem.__new__(Problem)
    for field, value in (("spectrum", spectrum), ("autoencoder", network), ("rule", rule)):
        object.__setattr__(problem, field, value)
    return problem


def log_times(
    end: float, count: int = 200, start: float | None = None, dim: int | None = None
) -> np.ndarray:
    """0 and log-spaced times (steps/D) from `start` (default end/10⁴) to `end`, `count` in all.

    With `dim` they are rounded to whole steps of that D (and fewer, where several would coincide):
    theory and simulation then stand at exactly the same times.
    """
    count = whole("count", count, at_least=2)
    end = float(scalar("end", end, above=0.0))
    start = end * 1e-4 if start is None else float(scalar("start", start, above=0.0))
    if start >= end:
        raise ValueError(f"`start` must be below `end`, got {start:g} and {end:g}")
    times = np.concatenate([[0.0], np.geomspace(start, end, count - 1)])
    if dim is None:
        return times
    return np.unique(np.round(times * whole("dim", dim))) / dim
