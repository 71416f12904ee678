"""`Trajectory`: what theory and simulation return; printing, xarray, files."""

import dataclasses
import enum
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import odeae
from odeae.activations import NAMED_FUNCTIONS, AbstractActivation, Quadrature
from odeae.activations import activation as named
from odeae.autoencoder import Autoencoder, Weights
from odeae.checks import scalar, whole
from odeae.files import writing
from odeae.gaussian import safe_sqrt
from odeae.precision import Real, in_float64, is_traced
from odeae.problem import Problem
from odeae.rules import RULES, SGD, generalisation_error
from odeae.schedules import SCHEDULES, as_schedule
from odeae.spectrum import Spectrum
from odeae.state import (
    Components,
    Densities,
    ModeDensities,
    Modes,
    OrderParameters,
    OutputOverlaps,
    Overlaps,
    State,
)
from odeae.words import nearest, one_of

if TYPE_CHECKING:
    import xarray


ENSEMBLE = "theory, ensemble"


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
            Status.BUDGET: "spent its step budget; give a larger `max_steps` or a looser `rtol`",
            Status.UNRESOLVED: "left the range of field variances that the Quadrature resolves; "
            "construct it with a larger `q_max`",
        }[self]
        return f"stopped at t={stop_time:.4g}: {cause}"


class Checkpoint(eqx.Module):
    """Where simulated runs stand: weights (runs, K, D), steps done, seed, kind of inputs.

    Pass it to `simulate(..., weights=...)` to go on exactly as if the runs had not been stopped.
    The weights are in the eigenbasis for Gaussian inputs; for real inputs in input space, because
    an eigenbasis that is computed again may have other signs.
    """

    weights: Weights
    step: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    source: str = eqx.field(static=True)


class PrincipalOverlaps(eqx.Module):
    """Where the neurons point, in principal components 1, 2, … (the spikes by falling eigenvalue).

    `encoder`, `decoder` (…, T, K, n): cosine of w_k and v_k with component i, 0 for weights that
    vanish. `encoder_within`, `decoder_within`: the same for the part of w_k and v_k within the span
    of these n components. `subspace_encoder`, `subspace_decoder` (…, T): share of the first
    r = min(K, n) components that the weights of all neurons span, tr(P_weights P_components)/r
    (not differentiable where their Gram matrix is degenerate).
    """

    encoder: Float[Real, "*batch times hidden components"]
    decoder: Float[Real, "*batch times hidden components"]
    encoder_within: Float[Real, "*batch times hidden components"]
    decoder_within: Float[Real, "*batch times hidden components"]
    subspace_encoder: Float[Real, "*batch times"]
    subspace_decoder: Float[Real, "*batch times"]


def _cosines(rows, squares):
    norm = safe_sqrt(squares)[..., None]
    return jnp.where(norm == 0, 0.0, rows / jnp.where(norm == 0, 1.0, norm))


def _share(rows, gram):
    """Share of the first r components within the span of vectors with this Gram matrix."""
    rank = min(rows.shape[-2:])
    values, vectors = jnp.linalg.eigh(gram)
    kept = values > 1e-12 * values[..., -1:]
    along = jnp.swapaxes(vectors, -1, -2) @ rows[..., :rank]
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0)
    return jnp.sum(inverse[..., None] * along**2, axis=(-2, -1)) / rank


@eqx.filter_jit
def _clean_errors(network, total, bias, noise, trace):
    """Error of each set of order parameters without the noise in the fields."""

    def one(total, bias, noise, trace):
        total = eqx.tree_at(lambda part: part.Q1, total, total.Q1 - noise * total.Q0)
        return generalisation_error(network, total, bias, trace)

    return jax.vmap(one)(total, bias, noise, trace)


class Trajectory(eqx.Module):
    """A learning curve with its order parameters, from `predict` or `simulate`.

    Shapes are those of one curve; runs of a simulation (and lanes under `jax.vmap`) lead with
    their own axis everywhere but in `times`.

    `times` (T,): steps/D. `error` (T,): generalisation error ‖x − x̂‖²/(2D), averaged over
    Gaussian x. `order_parameters`: split into spikes and bulk, each (T, K, K). `bias` (T, K).
    `test_error` (T,): the same error on held-out samples (simulation). Where the problem has
    `noise`, both are on corrupted inputs, which is what SGD descends, and `error_clean` on clean
    ones. `densities`: on request. `components`: rows along the leading spikes, from which
    `overlaps` makes cosines.
    `status`: a `Status` value, `stop_time`: the time that was reached. `weights`: what a
    simulation ended with, to be resumed. `initial`: the state it started from, if any; `final`: the
    one that theory ended in, at `stop_time`. `source`: "theory", "theory, ensemble" or what the
    inputs of the simulation were. `settings`: how it was computed, as JSON. `above_pca`: `excess`
    of theory.
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
    components: Components | None = None
    weights: Checkpoint | None = None
    initial: State | None = None
    final: State | None = None
    source: str = eqx.field(static=True, default="theory")
    settings: str = eqx.field(static=True, default="{}")
    above_pca: Float[Real, "*batch times"] | None = None

    @property
    def Q1(self) -> Real:
        """W Ω Wᵀ/D, (…, T, K, K)."""
        return self.order_parameters.total().Q1

    @property
    def R1(self) -> Real:
        """R1[k, l] = v_k Ω w_l/D^{3/2}, (…, T, K, K)."""
        return self.order_parameters.total().R1

    @property
    def T1(self) -> Real:
        """V Ω Vᵀ/D², (…, T, K, K)."""
        return self.order_parameters.total().T1

    @property
    def T0(self) -> Real:
        """V Vᵀ/D, (…, T, K, K)."""
        return self.order_parameters.total().T0

    @property
    def Q0(self) -> Real:
        """W Wᵀ/D, (…, T, K, K)."""
        return self.order_parameters.total().Q0

    @property
    @in_float64
    def error_clean(self) -> Real:
        """Generalisation error on clean inputs of the network as it is, (…, T)."""
        shape, batch = np.shape(self.error), np.ndim(self.error)

        def flat(x):
            return jnp.reshape(x, (-1, *np.shape(x)[batch:]))

        def per_time(x):
            return flat(jnp.broadcast_to(jnp.asarray(x)[..., None], shape))

        problem = self.problem
        errors = _clean_errors(
            problem.autoencoder,
            jax.tree.map(flat, self.order_parameters.total()),
            flat(self.bias),
            per_time(problem.noise),
            per_time(problem.spectrum.trace),
        )
        return errors.reshape(shape)

    @property
    @in_float64
    def overlaps(self) -> "PrincipalOverlaps":
        """How much each neuron points along each principal component, and what all of them span.

        Raises `ValueError` for a spectrum without spikes.
        """
        if self.components is None:
            raise ValueError(
                "`overlaps` are with the spikes, of which this spectrum has none; give "
                "from_eigenvalues, from_covariance or from_data a number of `spikes`"
            )
        w, u = (
            jnp.swapaxes(rows, -1, -2)
            for rows in (self.components.encoder, self.components.decoder)
        )
        gram_w, gram_u = self.problem.spectrum.dim * jnp.asarray(self.Q0), jnp.asarray(self.T0)
        return PrincipalOverlaps(
            _cosines(w, jnp.diagonal(gram_w, axis1=-2, axis2=-1)),
            _cosines(u, jnp.diagonal(gram_u, axis1=-2, axis2=-1)),
            _cosines(w, jnp.sum(w * w, axis=-1)),
            _cosines(u, jnp.sum(u * u, axis=-1)),
            _share(w, gram_w),
            _share(u, gram_u),
        )

    @property
    def excess(self) -> Real:
        """Error above the PCA error of rank K, (…, T).

        From `predict` it is a sum of terms that vanish one by one (docs/theory.md §8), so that it
        is as accurate relative to itself as the solve, also where it is 10^-10 of the error. Where
        it vanishes exponentially, as in linear networks, the solve is accurate relative to the
        weights, not to their distance from the end: give an `rtol` of 1e-10 there. Of a simulation
        it is a difference, with the absolute accuracy of `error`. With noise, `error` is that on
        corrupted inputs, the PCA error that of clean ones.
        """
        if self.above_pca is not None:
            return self.above_pca
        rank = self.problem.autoencoder.hidden
        return self.error - np.asarray(self.problem.spectrum.pca_error(rank))[..., None]

    def __repr__(self):
        problem = self.problem
        network, dim = problem.autoencoder, problem.spectrum.dim
        head = f"{describe_network(network)}, {describe_rule(problem)}, D={dim}"
        if is_traced(self):
            return f"Trajectory({self.source}, {head}, traced)"
        error, times = np.asarray(self.error), self.shared_times()
        count, span = len(times), f"t = {times[0]:.4g} … {times[-1]:.4g}"
        batch = self.error.shape[:-1]
        many = "" if not batch else f", {int(np.prod(batch))} {self._batch_name}s"
        lines = [f"Trajectory: {self.source}, {head}{many}, {count} times, {span}"]
        codes, stops = np.ravel(self.status), np.ravel(self.stop_time)
        bad = np.flatnonzero(codes != Status.OK)
        if not batch and np.isfinite(error[0]):
            last = int(np.sum(np.isfinite(error))) - 1
            until = "" if last == count - 1 else f" at t = {times[last]:.4g}, then it stopped"
            lines.append(f"  error    {error[0]:.6g} → {error[last]:.6g}{until}")
        elif batch and len(bad) < len(codes):
            good = error.reshape(-1, count)[codes == Status.OK]
            first, final = good[:, 0], good[:, -1]
            spread = f"on average (from {np.min(final):.4g} to {np.max(final):.4g})"
            lines.append(f"  error    {np.mean(first):.6g} → {np.mean(final):.6g} {spread}")
        levels = self.pca_levels()
        if levels is not None:
            lines.append(
                f"  PCA      {levels[-1]:.6g} at rank {network.hidden}, {levels[0]:.6g} at rank 0"
            )
        if len(bad) == 0:
            lines.append("  status   ok")
        else:
            which = "" if not batch else f"{len(bad)} of {len(codes)} failed, the first "
            lines.append(
                f"  status   {which}{Status(int(codes[bad[0]])).message(float(stops[bad[0]]))}"
            )
        return "\n".join(lines)

    def shared_times(self) -> np.ndarray:
        """The times (T,) of all lanes; raises `ValueError` for lanes with times of their own."""
        first = _first(self.times, 1)
        if not np.array_equal(np.broadcast_to(first, np.shape(self.times)), self.times):
            raise ValueError("these lanes have different `times`; take them one by one")
        return first

    def pca_levels(self) -> np.ndarray | None:
        """PCA errors of rank 0 … K, (K + 1,); None for lanes of different spectra."""
        levels = np.asarray(self.problem.spectrum.pca_errors(self.problem.autoencoder.hidden))
        first = _first(levels, 1)
        return first if np.all(levels == first) else None

    @property
    def _batch_name(self) -> str:
        return {"theory": "lane", ENSEMBLE: "member"}.get(self.source, "run")

    def plot(self, ax: Any = None, **kwargs: Any) -> Any:
        """Draw the error curve with the PCA levels; returns the Axes. See `odeae.plot`."""
        from odeae.plotting import plot

        return plot(self, ax=ax, **kwargs)

    def plot_order_parameters(self, axes: Any = None) -> Any:
        """Draw Q1, R1, T1, T0 in four panels; returns the array of Axes."""
        from odeae.plotting import plot_order_parameters

        return plot_order_parameters(self, axes=axes)

    def plot_overlaps(self, axes: Any = None) -> Any:
        """Draw how neurons turn towards the principal components; returns the array of Axes."""
        from odeae.plotting import plot_overlaps

        return plot_overlaps(self, axes=axes)

    def plot_neurons(self, **kwargs: Any) -> Any:
        """Draw the neurons as images; returns the array of Axes. See `odeae.plot_neurons`."""
        from odeae.images import plot_neurons

        return plot_neurons(self, **kwargs)

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
            "excess": ((*batch, "time"), self.excess),
            "bias": ((*batch, "time", "k"), self.bias),
            "status": (batch, self.status),
            "stop_time": (batch, self.stop_time),
        }
        if self.test_error is not None:
            data["test_error"] = ((*batch, "time"), self.test_error)
        if np.any(np.asarray(self.problem.noise)):
            data["error_clean"] = ((*batch, "time"), self.error_clean)
        for name in ("Q1", "R1", "T1", "T0", "Q0"):
            data[name] = ((*batch, *pair), getattr(self, name))
        for part in ("spikes", "bulk"):
            values = getattr(self.order_parameters, part)
            for name in ("Q1", "R1", "T1", "T0", "Q0"):
                data[f"{name}_{part}"] = ((*batch, *pair), getattr(values, name))
            if values.output is not None:
                for name, dim in (("R1", "k"), ("T1", "k_and_output"), ("T0", "k_and_output")):
                    shared = getattr(values.output, name)
                    data[f"output_{name}_{part}"] = ((*batch, "time", dim), shared)
        if self.components is not None:
            rows = (*batch, "time", "component", "k")
            data["component_encoder"] = (rows, self.components.encoder)
            data["component_decoder"] = (rows, self.components.decoder)
            overlaps, cosines = self.overlaps, (*batch, "time", "k", "component")
            for name in ("encoder", "decoder"):
                data[f"overlap_{name}"] = (cosines, getattr(overlaps, name))
                data[f"within_{name}"] = (cosines, getattr(overlaps, f"{name}_within"))
                share = getattr(overlaps, f"subspace_{name}")
                data[f"subspace_{name}"] = ((*batch, "time"), share)
        if self.densities is not None:
            for part, dim in (("spikes", "spike"), ("bulk", "bin")):
                for name in ("q", "r", "t"):
                    values = getattr(getattr(self.densities, part), name)
                    data[f"{name}_{part}"] = ((*batch, "time", dim, "k", "l"), values)
        if self.weights is not None:
            for name, dims in (
                ("encoder", ("k", "mode")),
                ("decoder", ("k", "mode")),
                ("bias", ("k",)),
                ("output_bias", ("mode",)),
            ):
                values = getattr(self.weights.weights, name)
                if values is not None:
                    data[f"weights_{name}"] = ((*batch, *dims), values)
        for when, state in (("initial", self.initial), ("final", self.final)):
            for name, (dims, values) in _state_variables(state).items():
                lead = batch[: values.ndim - len(dims)]
                data[f"{when}_{name}"] = ((*lead, *dims), values)
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
            coords={"time": self.shared_times()},
        )
        for name in dataset.variables:
            unit, text = _unit(str(name))
            dataset[name].attrs = {"units": unit, "long_name": text}
        dataset["status"].attrs |= {
            "flag_values": [int(s) for s in Status],
            "flag_meanings": " ".join(s.name for s in Status),
        }
        dataset.attrs = {
            "source": self.source,
            "problem": json.dumps(_describe(self.problem)),
            "settings": self.settings,
            "odeae_version": odeae.__version__,
            "reference": "Refinetti & Goldt, ICML 2022, arXiv:2201.02115",
        }
        if self.weights is not None:
            dataset.attrs |= {"step": self.weights.step, "seed": self.weights.seed}
            dataset.attrs["inputs"] = self.weights.source
        return dataset

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Write the dataset of `to_xarray` to a netCDF file, whole or not at all.

        Raises `OSError` kinds for an existing file (unless `overwrite`), a missing or unwritable
        folder. Several curves fit into one file with `odeae.save_all`.
        """
        save_all(path, {None: self}, overwrite)


def save_all(
    path: str | os.PathLike, trajectories: dict[str | None, Trajectory], overwrite: bool = False
) -> None:
    """Write a dict of trajectories to one netCDF file, whole or not at all, each in its group.

    Read them with `load(path, group=name)`. Raises the `OSError` kinds of `Trajectory.save`.
    """
    if not isinstance(trajectories, dict):
        raise ValueError(
            "save_all takes a file and a dict of trajectories, such as "
            f'save_all("x.nc", {{"theory": theory}}), got {type(trajectories).__name__}'
        )
    with writing(path, overwrite) as temporary:
        for i, (group, trajectory) in enumerate(trajectories.items()):
            trajectory.to_xarray().to_netcdf(
                temporary, mode="w" if i == 0 else "a", group=group, engine="h5netcdf"
            )


def load(
    path: str | os.PathLike, group: str | None = None, activation: Any = None, schedule: Any = None
) -> Trajectory:
    """Return the `Trajectory` that was saved at `path` (in `group`).

    `activation`, `schedule`: needed only if the network had a `Quadrature`, or the rule a schedule,
    that was a function of your own, which a file can't hold. Eigenvectors are not kept: to simulate
    on real inputs, build the spectrum from the data again (`weights` go on exactly).

    Raises `FileNotFoundError`, and `ValueError` for files that odeae didn't write.
    """
    import xarray as xr

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        with xr.open_dataset(path, group=group, engine="h5netcdf") as opened:
            data = opened.load()
    except (OSError, ValueError, KeyError) as error:
        groups = _groups(path)
        if group is not None and not groups:
            raise ValueError(
                f"{str(path)!r} has no groups, such as {group!r}: leave out `group`"
            ) from error
        if group is not None and group not in groups:
            hint = nearest(group, groups)
            raise ValueError(f"no group {group!r} in {str(path)!r}{hint}") from error
        raise ValueError(f"can't read {str(path)!r} as netCDF: {error}") from error
    if "problem" not in data.attrs:
        groups = ", ".join(_groups(path))
        hint = f"; its groups are {groups}: pass group=" if groups else ""
        raise ValueError(f"{str(path)!r} holds no odeae trajectory{hint}")

    def get(name: str) -> Any:
        return data[name].values if name in data.variables else None

    parts = {}
    for part in ("spikes", "bulk"):
        output = None
        if f"output_T0_{part}" in data.variables:
            output = OutputOverlaps(*(get(f"output_{n}_{part}") for n in ("R1", "T1", "T0")))
        own = {name: get(f"{name}_{part}") for name in ("Q1", "R1", "T1", "T0", "Q0")}
        parts[part] = Overlaps(**own, output=output)
    counts = tuple(int(m) for m in data["spectrum_multiplicity"].values)
    kept = {name: get(f"spectrum_{name}") for name in ("spikes", "bulk", "order", "given", "mean")}
    spectrum = _unchecked(Spectrum, multiplicity=counts, basis=None, **kept)
    saved = None
    if "q_spikes" in data.variables:
        kinds = [ModeDensities(*(get(f"{n}_{p}") for n in "qrt")) for p in ("spikes", "bulk")]
        saved = Densities(*kinds)
    checkpoint = None
    if "weights_encoder" in data.variables:
        weights = Weights(*(get(f"weights_{name}") for name in Weights._fields))
        attrs = data.attrs
        checkpoint = Checkpoint(weights, int(attrs["step"]), int(attrs["seed"]), attrs["inputs"])

    def state(when: str) -> State | None:
        if f"{when}_bias" not in data.variables:
            return None
        rows = [
            Modes(*(get(f"{when}_{part}_{name}") for name in ("encoder", "decoder", "output")))
            for part in ("spikes", "bulk")
        ]
        return State(rows[0], rows[1], get(f"{when}_bias"), get(f"{when}_diffusion"))

    along = None
    if "component_encoder" in data.variables:
        along = Components(get("component_encoder"), get("component_decoder"))
    return Trajectory(
        get("time"),
        get("error"),
        OrderParameters(parts["spikes"], parts["bulk"]),
        get("bias"),
        get("status"),
        get("stop_time"),
        _problem(json.loads(data.attrs["problem"]), spectrum, activation, schedule),
        get("test_error"),
        saved,
        along,
        checkpoint,
        state("initial"),
        state("final"),
        data.attrs["source"],
        data.attrs["settings"],
        get("excess") if data.attrs["source"].startswith("theory") else None,
    )


def _state_variables(state: State | None) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Name, dims (without those of a batch) and values of what a state is made of."""
    if state is None:
        return {}
    found: dict[str, tuple[tuple[str, ...], Any]] = {
        "bias": (("k",), state.bias),
        "diffusion": (("k", "l"), state.diffusion),
    }
    for part, dim in (("spikes", "spike"), ("bulk", "row")):
        rows = getattr(state, part)
        for name, dims in (("encoder", (dim, "k")), ("decoder", (dim, "k")), ("output", (dim,))):
            found[f"{part}_{name}"] = (dims, getattr(rows, name))
    return {name: variable for name, variable in found.items() if variable[1] is not None}


def _groups(path: str | os.PathLike) -> list[str]:
    import h5netcdf

    try:
        with h5netcdf.File(path, "r") as file:
            return list(file.groups)
    except OSError:
        return []


_UNITS = {
    "time": ("steps/D", "time"),
    "error": ("variance per input dimension / 2", "generalisation error ‖x − x̂‖²/(2D)"),
    "excess": ("variance per input dimension / 2", "error above the PCA error of rank K"),
    "error_clean": ("variance per input dimension / 2", "the same on inputs without the noise"),
    "test_error": ("variance per input dimension / 2", "‖x − x̂‖²/(2D) on held-out samples"),
    "Q1": ("1", "W Ω Wᵀ/D"),
    "R1": ("1", "V Ω Wᵀ/D^{3/2}, [k, l] = v_k Ω w_l"),
    "T1": ("1", "V Ω Vᵀ/D²"),
    "T0": ("1", "V Vᵀ/D"),
    "Q0": ("1", "W Wᵀ/D"),
    "output_R1": ("1", "v_0 Ω w_k/D^{3/2}"),
    "output_T1": ("1", "v_0 Ω v_k/D², last: v_0 Ω v_0/D²"),
    "output_T0": ("1", "v_0·v_k/D, last: |v_0|²/D"),
    "component_encoder": ("1", "ψ_i·w_k, components by falling eigenvalue"),
    "component_decoder": ("1", "ψ_i·v_k/√D, components by falling eigenvalue"),
    "overlap_encoder": ("1", "cosine of w_k with principal component i"),
    "overlap_decoder": ("1", "cosine of v_k with principal component i"),
    "within_encoder": ("1", "the same for the part of w_k within the span of the components"),
    "within_decoder": ("1", "the same for the part of v_k within the span of the components"),
    "subspace_encoder": ("1", "share of the first min(K, n) components that W spans"),
    "subspace_decoder": ("1", "share of the first min(K, n) components that V spans"),
    "q": ("1", "density w wᵀ of a mode (the mean mode of a bin)"),
    "r": ("1", "density u wᵀ of a mode (the mean mode of a bin), u = v/√D"),
    "t": ("1", "density u uᵀ of a mode (the mean mode of a bin), u = v/√D"),
    "bias": ("1", "hidden bias"),
    "stop_time": ("steps/D", "time that was reached"),
    "status": ("1", "how the solve ended"),
    "weights_encoder": ("1", "entries of W at the end"),
    "weights_decoder": ("1", "entries of V at the end"),
    "weights_output_bias": ("1", "entries of the output bias v_0 at the end"),
    "weights_bias": ("1", "hidden biases at the end"),
    "spectrum_spikes": ("variance/D", "scaled eigenvalue of each spike"),
    "spectrum_bulk": ("variance", "eigenvalue of each bulk bin"),
    "spectrum_multiplicity": ("1", "modes in each bulk bin"),
    "spectrum_order": ("1", "which eigenvalue, as given, each mode is"),
    "spectrum_given": ("variance", "eigenvalues as given"),
    "spectrum_mean": ("√variance", "mean of the inputs"),
}


def _unit(name: str) -> tuple[str, str]:
    """Unit and description of a variable; parts such as Q1_bulk have those of the whole."""
    if name in _UNITS:
        return _UNITS[name]
    when, _, what = name.partition("_")
    if when in ("initial", "final"):
        texts = {
            "bias": "hidden biases of the {} state",
            "diffusion": "Σ w wᵀ that the noise of the steps has added in the {} state",
        }
        rows = "rows of the {} state: w = ψ·w_k, u = ψ·v_k/√D and u_0 = ψ·v_0/√D"
        return "1", texts.get(what, rows).format(when)
    whole, part = name.rsplit("_", 1)
    unit, text = _UNITS[whole]
    return unit, f"{text}, {part}"


def _first(values: Any, ndim: int) -> np.ndarray:
    """The first of batched values, which vmap has also given to what all lanes share."""
    values = np.asarray(values)
    while values.ndim > ndim:
        values = values[0]
    return values


def _number(value: Any) -> Any:
    return None if value is None else np.asarray(value).tolist()


def settings_json(**settings: Any) -> str:
    """How a trajectory was computed, for its `settings`; what is traced has no value yet."""

    def plain(value: Any) -> Any:
        return "traced" if is_traced(value) else _number(value)

    return json.dumps({name: plain(value) for name, value in settings.items()})


def _activation_name(activation: AbstractActivation) -> str:
    if isinstance(activation, Quadrature):
        return next((n for n, f in NAMED_FUNCTIONS.items() if f is activation.fn), "own function")
    return type(activation).__name__.lower()


def describe_network(network: Autoencoder) -> str:
    """A network in a few words: erf, K=3, tied, biases."""
    extra = [
        text
        for text, there in (
            ("tied", network.tied),
            (f"gain {_short(network.gain)}", np.any(np.asarray(network.gain) != 1.0)),
            ("biases", network.bias),
            ("output bias", network.output_bias),
        )
        if there
    ]
    return ", ".join([_activation_name(network.activation), f"K={network.hidden}", *extra])


def describe_rule(problem: Problem) -> str:
    """A rule in a few words: truncated SGD, denoising."""
    rule = problem.rule
    text = type(rule).__name__
    if isinstance(rule, SGD):
        text = "truncated SGD" if rule.truncated else "SGD"
        text += "" if rule.gradient == "full" else f" ({rule.gradient} only)"
    if rule.schedule is not None:
        text += ", " + _fields(rule.schedule)["name"].removesuffix("Schedule").lower() + " schedule"
    if np.any(np.asarray(problem.noise)):
        text += f", noise {_short(problem.noise)}"
    return text


def _short(value: Any) -> str:
    return f"{float(value):g}" if np.ndim(value) == 0 else "of each lane"


def _fields(module: Any) -> dict[str, Any]:
    """Name and values of a module in JSON's types; functions of the user's own have no value."""
    values = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
    return {"name": type(module).__name__} | {
        name: value if isinstance(value, bool | str) else _number(value)
        for name, value in values.items()
        if not callable(value)
    }


def _describe(problem: Problem) -> dict[str, Any]:
    """All of a problem but its spectrum, in JSON's types."""
    network, rule = problem.autoencoder, problem.rule
    activation: dict[str, Any] = {"name": _activation_name(network.activation)}
    if isinstance(network.activation, Quadrature):
        activation |= {"scale": network.activation.scale, "q_max": network.activation.q_max}
    schedule = None
    if rule.schedule is not None:
        known = type(rule.schedule) in SCHEDULES.values()
        schedule = _fields(rule.schedule) if known else {"name": "own function"}
    return {
        "hidden": network.hidden,
        "activation": activation,
        "tied": network.tied,
        "bias": network.bias,
        "output_bias": network.output_bias,
        "gain": _number(network.gain),
        "rule": _fields(rule) | {"schedule": schedule},
        "noise": _number(problem.noise),
    }


def _own_function(what: str, remedy: str) -> ValueError:
    return ValueError(
        f"{what} of this trajectory was a function of your own, which a file can't hold: pass it "
        f"as load(..., {remedy})"
    )


def _restored(kinds: dict[str, type], config: dict[str, Any], **own: Any) -> Any:
    """The module that `_fields` described; values are those that were checked when saved."""
    name = config.pop("name")
    values = {
        key: value if isinstance(value, bool | str | None) else np.asarray(value, np.float64)
        for key, value in config.items()
    }
    return _unchecked(kinds[one_of("kind", name, kinds)], **values, **own)


def _problem(config: dict[str, Any], spectrum: Spectrum, activation: Any, schedule: Any) -> Problem:
    kind = dict(config["activation"])
    name = kind.pop("name")
    if activation is None and name == "own function":
        raise _own_function("the activation", "activation=odeae.Quadrature(fn)")
    if activation is None:
        activation = Quadrature(NAMED_FUNCTIONS[name], **kind) if kind else named(name)
    network = _unchecked(
        Autoencoder,
        hidden=config["hidden"],
        activation=activation,
        **{name: config[name] for name in ("tied", "bias", "output_bias")},
        gain=np.asarray(config["gain"], np.float64),
    )
    kind = dict(config["rule"])
    planned = kind.pop("schedule")
    if schedule is None and planned is not None:
        if planned["name"] not in SCHEDULES:
            raise _own_function("the schedule", "schedule=fn")
        schedule = _restored(SCHEDULES, planned)
    rule = _restored(RULES, kind, schedule=as_schedule(schedule))
    noise = np.asarray(config["noise"], np.float64)
    return _unchecked(Problem, spectrum=spectrum, autoencoder=network, rule=rule, noise=noise)


def _unchecked(cls: type, **fields: Any) -> Any:
    """An object of values that were checked when they were saved; lanes have an extra axis."""
    result = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    return result


def log_times(
    end: float, count: int = 200, start: float | None = None, dim: int | None = None
) -> np.ndarray:
    """0 and log-spaced times (steps/D) from `start` to `end`, `count` in all.

    `start`: by default end/10⁴, but 0.1 at most, as the first components are learnt at times of
    order 1. Plateaus want some 50 times per decade. With `dim` times are rounded to whole steps of
    that D (and fewer, where several would coincide): theory and simulation then stand at exactly
    the same times.
    """
    count = whole("count", count, at_least=2)
    end = float(scalar("end", end, above=0.0))
    start = min(end * 1e-4, 0.1) if start is None else float(scalar("start", start, above=0.0))
    if start >= end:
        raise ValueError(f"`start` must be below `end`, got {start:g} and {end:g}")
    times = np.concatenate([[0.0], np.geomspace(start, end, count - 1)])
    if dim is None:
        return times
    return np.unique(np.round(times * whole("dim", dim))) / dim
