"""`Trajectory`: what theory and simulation return, and how it prints."""

import json
import operator
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from odeae.base.messages import counted, html_table, shortened
from odeae.base.precision import Real, in_float64, is_traced
from odeae.base.status import Status
from odeae.model.errors import generalisation_error
from odeae.model.problem import Problem
from odeae.model.state import Components, Densities, OrderParameters, State
from odeae.results.checkpoint import Checkpoint
from odeae.results.overlaps import PrincipalOverlaps, principal_overlaps
from odeae.results.printing import described
from odeae.results.several import ENSEMBLE, Index, picked

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


@eqx.filter_jit
def _clean_errors(network, total, bias, noise, trace):
    """Error of each set of order parameters without the noise in the fields."""

    def one(total, bias, noise, trace):
        total = eqx.tree_at(lambda part: part.Q1, total, total.Q1 - noise * total.Q0)
        return generalisation_error(network, total, bias, trace)

    return jax.vmap(one)(total, bias, noise, trace)


class Trajectory(eqx.Module):
    """A learning curve with its order parameters, of theory or of a simulation.

    Shapes are those of one curve. Several curves lead with an axis of their own: the runs of a
    simulation and the members of an ensemble everywhere but in `times` and `problem`, the lanes of
    `jax.vmap` everywhere. `runs[0]` is one of them, `for run in runs` takes them one by one, and
    `len(runs)` counts them.

    Attributes:
        times: (T,), steps/D.
        error: (T,), generalisation error ‖x − x̂‖²/(2D), averaged over Gaussian x; where the problem
            has `noise`, on corrupted inputs, which is what SGD descends. `error_clean` is the error
            on clean ones.
        order_parameters: Split into spikes and bulk, each (T, K, K).
        bias: (T, K), hidden biases.
        status: A `Status` value.
        stop_time: The time that was reached, in steps/D; NaN after it.
        problem: What was trained, on what, how.
        test_error: (T,), the error on held-out samples (simulation).
        densities: On request.
        components: Rows along the leading spikes, from which `overlaps` makes cosines.
        weights: What a simulation ended with, to go on from.
        initial: The state it started from, if any.
        final: The state that theory ended in, at `stop_time`.
        source: "theory", "theory, ensemble" or what the inputs of the simulation were.
        settings: How it was computed, as JSON.
        above_pca: `excess` of theory.
        steps: Steps that the solver tried, or that SGD took.

    Example:
        >>> theory = odeae.predict(problem, odeae.random_state(problem), odeae.log_times(200))
        >>> theory.ok, theory.error[-1], theory.excess[-1], theory.stats
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
    steps: Int[Real, "*batch"] | None = None

    def __len__(self) -> int:
        """How many curves there are; raises `TypeError` for a single one."""
        shape = np.shape(self.status)
        if not shape:
            raise TypeError("a single Trajectory has no len(): it holds one curve")
        return shape[0]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: Index) -> "Trajectory":
        """One of several curves, or a slice of them.

        Runs that are taken out keep their weights; `simulate` goes on with all runs only.

        Raises:
            TypeError: For a single curve, and for what is neither a whole number nor a slice.
            IndexError: For a number beyond the last.
        """
        shape = np.shape(self.status)
        if not shape:
            raise TypeError("a single Trajectory can't be indexed: it holds one curve")
        if isinstance(index, slice):
            return picked(self, index)
        try:
            number = operator.index(index)
        except TypeError as error:
            raise TypeError(
                f"one of several curves is taken by a whole number, got {shortened(index)}"
            ) from error
        if not -shape[0] <= number < shape[0]:
            raise IndexError(f"there are {counted(shape[0], 'curve')}, got index {number}")
        return picked(self, number % shape[0])

    def __iter__(self) -> Iterator["Trajectory"]:
        return (self[i] for i in range(len(self)))

    @property
    def stats(self) -> dict[str, Any]:
        """How it was computed: `solver`, `steps` that were tried, and the `status` by its name.

        Of several curves `steps` is an array and `status` a list. The same call gives the same
        result bit for bit, so the time by the clock is left out.
        """
        if is_traced((self.status, self.steps)):
            raise ValueError("`stats` are those of concrete curves: ask outside of jit and vmap")
        known = json.loads(self.settings)
        steps = None if self.steps is None else np.asarray(self.steps)
        names = np.vectorize(lambda code: Status(int(code)).name)(self.status).tolist()
        return {
            "solver": known.get("solver", "online SGD" if self.weights is not None else None),
            "steps": int(steps) if steps is not None and steps.ndim == 0 else steps,
            "status": names,
        }

    @property
    def ok(self) -> bool | Real:
        """Whether the curve, or every one of several, came to its last time: status OK.

        A bool; under a transformation a traced one.
        """
        if is_traced(self.status):
            return jnp.all(self.status == Status.OK)
        return bool(np.all(np.asarray(self.status) == Status.OK))

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
        gram_w, gram_u = self.problem.spectrum.dim * jnp.asarray(self.Q0), jnp.asarray(self.T0)
        return principal_overlaps(self.components, gram_w, gram_u)

    @property
    def excess(self) -> Real:
        """Error above the PCA error of rank K, (…, T).

        From `predict` it is a sum of terms that vanish one by one (docs/theory.md 8), so that it
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

    def __repr__(self) -> str:
        title, rows = described(self)
        return "\n".join([f"Trajectory: {title}", *(f"  {n:<8} {text}" for n, text in rows)])

    def _repr_html_(self) -> str:
        title, rows = described(self)
        return html_table(f"Trajectory: {title}", rows)

    @property
    def own_times(self) -> bool:
        """Whether the lanes have times of their own."""
        first = _first(self.times, 1)
        return not np.array_equal(np.broadcast_to(first, np.shape(self.times)), self.times)

    def shared_times(self) -> np.ndarray:
        """The times (T,) of all lanes; raises `ValueError` for lanes with times of their own."""
        if self.own_times:
            raise ValueError("these lanes have different `times`; take them one by one")
        return _first(self.times, 1)

    def pca_levels(self) -> np.ndarray | None:
        """PCA errors of rank 0 … K, (K + 1,); None for lanes of different spectra."""
        levels = np.asarray(self.problem.spectrum.pca_errors(self.problem.autoencoder.hidden))
        first = _first(levels, 1)
        return first if np.all(levels == first) else None

    @property
    def batch_name(self) -> str:
        """What one of several curves is called: "lane", "member" or "run"."""
        return {"theory": "lane", ENSEMBLE: "member"}.get(self.source, "run")

    def plot(self, ax: "Axes | None" = None, **kwargs: Any) -> "Axes":
        """Draw the error curve with the PCA levels; returns the Axes. See `odeae.plot`."""
        from odeae.plotting.curves import plot

        return plot(self, ax=ax, **kwargs)

    def plot_order_parameters(self, axes: Any = None) -> Any:
        """Draw Q1, R1, T1, T0 in four panels; returns the array of Axes."""
        from odeae.plotting.parameters import plot_order_parameters

        return plot_order_parameters(self, axes=axes)

    def plot_overlaps(self, axes: Any = None) -> Any:
        """Draw how neurons turn towards the principal components; returns the array of Axes."""
        from odeae.plotting.parameters import plot_overlaps

        return plot_overlaps(self, axes=axes)

    def plot_neurons(self, **kwargs: Any) -> Any:
        """Draw the neurons as images; returns the array of Axes. See `odeae.plot_neurons`."""
        from odeae.plotting.neurons import plot_neurons

        return plot_neurons(self, **kwargs)

    def to_xarray(self, *, basis: bool = False) -> "xarray.Dataset":
        """Everything as an `xarray.Dataset`: dims `time`, `k`, `l` (and `run` or `lane`).

        `Q1`, `R1`, `T1`, `T0` are totals, `Q1_spikes`, `Q1_bulk`, … their parts. Units stand in
        the variables' attributes; the configuration, as JSON, in the attribute `problem`, the
        spectrum in `spectrum_…`, with its eigenvectors (D×D doubles) only if `basis`.
        """
        from odeae.results.dataset import to_xarray

        return to_xarray(self, basis)

    def save(
        self, path: str | os.PathLike[str], overwrite: bool = False, *, basis: bool = False
    ) -> None:
        """Write this trajectory to a file, whole or not at all.

        A name that ends in ".nc" makes a netCDF file with the dataset of `to_xarray`, which
        `odeae.load` reads; one that ends in ".csv" a table of the curves for other programs: a row
        per time, columns `error`, `excess`, … (of runs `error_0`, `error_1`, …). Several
        trajectories fit into one file with `odeae.save_all`.

        Args:
            path: File to be written.
            overwrite: Whether an existing file may be replaced.
            basis: Whether netCDF keeps the eigenvectors of the spectrum (D×D doubles), so that
                neurons can be drawn in input space after `load`.

        Raises:
            ValueError: For another ending.
            OSError: For an existing file (unless `overwrite`), a missing or unwritable folder.

        Example:
            theory.save("theory.nc")
        """
        from odeae.results.saving import save_all

        save_all(path, {None: self}, overwrite, basis=basis)


def _first(values: Any, ndim: int) -> np.ndarray:
    """Drop the batch axes of a value that all lanes share: vmap repeats it for each lane."""
    values = np.asarray(values)
    while values.ndim > ndim:
        values = values[0]
    return values


def settings_json(**settings: Any) -> str:
    """How a trajectory was computed, for its `settings`; what is traced has no value yet."""

    def plain(value: Any) -> Any:
        if value is None or is_traced(value):
            return "traced" if is_traced(value) else None
        return np.asarray(value).tolist()

    return json.dumps({name: plain(value) for name, value in settings.items()})
