"""Mode dynamics: how much of each principal component a network passes on, as it learns.

The map of mode j is ρ̂_j/ρ_j. Here ρ_j = ⟨(ψ_j·x)²⟩ is the mode's eigenvalue and
ρ̂_j = ⟨(ψ_j·x)(ψ_j·x̂)⟩ is the diagonal of the cross-covariance of input and reconstruction in the
eigenbasis. x is the target: with denoising, the input before its corruption. For a linear network
the map is w_2 w_1 of the mode, for any network the slope of the best linear fit of ψ_j·x̂ to ψ_j·x.
A mode of map 0 is not learnt, a mode of map 1 is passed on in full.

Source: Pretorius, Kroon & Kamper, ICML 2018, supplement F; docs/theory.md 9.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from odeae.averages.activation import mean_slope
from odeae.base.checks import array, finite, flag, numbers
from odeae.base.precision import ArrayLike, Real, in_float64, is_traced
from odeae.base.times import save_times
from odeae.model.autoencoder import Autoencoder
from odeae.model.initial import check_weights
from odeae.model.problem import Problem, sizes
from odeae.results.checkpoint import Checkpoint, GivenWeights
from odeae.results.trajectory import Trajectory

# Part of the samples' variance below which a mode has only rounding errors of its eigenvector.
_NO_VARIANCE = 1e-13


class ModeDynamics(eqx.Module):
    """The map ρ̂_j/ρ_j of each mode, from theory, from simulated runs or from samples.

    Source: Pretorius, Kroon & Kamper (2018), supplement F; docs/theory.md 9.

    Attributes:
        map: ρ̂_j/ρ_j, without unit, (…, T, modes), or (…, modes) without times. A bulk bin has the
            mean of its modes.
        eigenvalues: ρ_j (not divided by D), (…, modes); for samples, their variance.
        multiplicity: 1 for a mode, the number of modes for a bin, (modes,).
        times: Times in steps/D, (T,); None without times.
        standard_error: Standard error of `map`, of the same shape, for samples; None otherwise.
        status: `Status` of each curve, (…); the map is NaN at times that were not reached. None
            for samples.
        source: "samples", or the `source` of the trajectory.

    Example:
        >>> odeae.mode_map(theory).map.shape == (len(times), 3)
        True
    """

    map: Float[Real, "..."]
    eigenvalues: Float[Real, "*lanes modes"]
    multiplicity: Int[np.ndarray, " modes"]
    times: Float[Real, "..."] | None = None
    standard_error: Float[Real, "..."] | None = None
    status: Int[Real, "..."] | None = None
    source: str = eqx.field(static=True, default="samples")


@in_float64
def mode_map(trajectory: Trajectory, clean: bool = False) -> ModeDynamics:
    """Return the map ρ̂_j/ρ_j of the modes of a trajectory, exact for Gaussian inputs.

    The map is Σ_k u_jk c_k w_jk, with the mean slope c_k at the variance Q1_kk of the field and the
    rows w and u of docs/theory.md 2. By Stein's lemma ⟨(ψ_j·x) g(λ_k + b_k)⟩ = c_k ρ_j w_jk/√D, and
    ψ_j·x̂ = √D Σ_k u_jk g_k, so powers of D cancel. Output biases don't contribute. `jit`, `vmap`
    and `grad` go through this function. `mode_map_of_weights` gives all modes of finite weights.

    Args:
        trajectory: The curve or curves.
        clean: For a denoising network, whether the inputs are clean, not corrupted as in training;
            only c_k differs.

    Returns:
        Maps of the leading spikes, by falling eigenvalue. If the trajectory has `densities`, maps
        of all spikes and then of the bulk bins.

    Raises:
        ValueError: For a trajectory without spikes and without densities.

    Source: Pretorius, Kroon & Kamper (2018), supplement F; docs/theory.md 9.

    Example:
        >>> odeae.mode_map(theory).map.shape == (len(times), 3)
        True
    """
    if not isinstance(trajectory, Trajectory):
        raise ValueError(f"`trajectory` must be a Trajectory, got {type(trajectory).__name__}")
    clean = flag("clean", clean)
    problem, total = trajectory.problem, trajectory.order_parameters.total()
    q = _diagonal(total.Q1)
    if clean:
        noise = jnp.asarray(problem.noise)[..., None, None]
        q = q - jnp.broadcast_to(noise, q.shape) * _diagonal(total.Q0)
    c = _mean_slopes(problem.autoencoder, q, jnp.asarray(trajectory.bias))
    products, eigenvalues, multiplicity = _products(trajectory)
    return ModeDynamics(
        jnp.sum(products * c[..., None, :], axis=-1),
        eigenvalues,
        multiplicity,
        trajectory.times if is_traced(trajectory) else trajectory.shared_times(),
        status=trajectory.status,
        source=trajectory.source,
    )


@in_float64
def mode_map_of_weights(
    problem: Problem, weights: GivenWeights, clean: bool = False
) -> Float[Real, "*runs dim"]:
    """Return the map ρ̂_j/ρ_j of all D modes at given weights, exact for Gaussian inputs.

    Args:
        problem: The problem that the weights belong to.
        weights: The weights at the end of a simulation (`runs.weights`), or `Weights`, (W, V) or
            (W, V, bias), of shapes (K, D), (K, D) and (K,), in the eigenbasis and not scaled. A
            leading axis may count runs.
        clean: As in `mode_map`.

    Returns:
        ρ̂_j/ρ_j, without unit, (D,), or (runs, D), in the order of
        `problem.spectrum.eigenvalues()`.

    Raises:
        ValueError: For weights of other shapes, for runs on real inputs without a basis, and for
            field variances that a `Quadrature` doesn't resolve.

    Source: docs/theory.md 9.

    Example:
        >>> weights = odeae.draw_weights(problem, theory.final)
        >>> odeae.mode_map_of_weights(problem, weights).shape
        (1000,)
    """
    spectrum, network = sizes(problem)[0], problem.autoencoder
    noise = 0.0 if flag("clean", clean) else problem.noise
    W, V, bias, many = _stacked(problem, weights)
    if isinstance(weights, Checkpoint) and "real" in weights.source:
        basis = spectrum.basis
        if basis is None:
            raise ValueError(
                "`weights` of runs on real inputs are in input space, but the spectrum has no "
                "`basis`: build it from the data again"
            )
        W, V = W @ basis, V @ basis
    q = (W * W) @ ((spectrum.eigenvalues() + noise) / spectrum.dim)
    network.activation.check_variance(q)
    c = _mean_slopes(network, q, bias)
    values = jnp.sum(c[..., None] * W * V, axis=-2) / np.sqrt(spectrum.dim)
    return values if many else values[0]


def estimate_mode_map(
    samples: ArrayLike,
    reconstructions: ArrayLike,
    basis: ArrayLike | None = None,
    times: ArrayLike | None = None,
    centred: bool = True,
) -> ModeDynamics:
    """Estimate the map ρ̂_j/ρ_j of any network from samples and their reconstructions.

    ρ̂_j is the mean of (ψ_j·x)(ψ_j·x̂) and ρ_j the mean of (ψ_j·x)² over the same samples, so the map
    is the least-squares slope of ψ_j·x̂ on ψ_j·x. The standard error holds for independent samples
    of any distribution (White 1980, with the factor n/(n − parameters)). Times share their samples,
    so their errors are correlated.

    Args:
        samples: The targets x, (n, D), or with the leading axes of `reconstructions`.
        reconstructions: x̂, (…, n, D): of corrupted inputs for the map on which a denoising network
            is trained, of x itself for the map of clean inputs. Leading axes are networks.
        basis: Eigenvectors ψ_j in columns, (D, modes): `spectrum.basis` or some of its columns.
            None if the entries of samples are already along the eigenvectors.
        times: Times in steps/D, (T,), if the last leading axis counts times.
        centred: Whether to remove the sample means first. False takes second moments about 0, as
            the code of the DAE paper does.

    Returns:
        The maps with their standard errors.

    Raises:
        ValueError: For wrong shapes, fewer than 3 samples, entries that are not finite, a basis
            that is not orthonormal, and modes in which the samples have no variance, where no map
            exists.

    Source: Pretorius, Kroon & Kamper (2018), supplement F; White (1980); docs/theory.md 9.

    Example:
        >>> odeae.estimate_mode_map(x, 0.5 * x).map[:3].round(6).tolist()
        [0.5, 0.5, 0.5]
    """
    x, y = _samples(samples, reconstructions)
    dof = 1 + flag("centred", centred)
    if centred:
        x, y = (part - part.mean(axis=-2, keepdims=True) for part in (x, y))
    variance = np.mean(x * x, axis=-2)
    least = _NO_VARIANCE * variance.sum(axis=-1, keepdims=True)
    if basis is not None:
        columns = _orthonormal(basis, x.shape[-1])
        x, y = x @ columns, y @ columns
        variance = np.mean(x * x, axis=-2)
    empty = np.argwhere(~(variance > least))[:, -1]
    if empty.size:
        which = np.unique(empty)
        raise ValueError(
            f"`samples` must vary along every mode, got no variance in {len(which)} of them (the "
            f"first at index {which[0]}), whose map is not defined: leave out their eigenvectors"
        )
    slope = np.mean(x * y, axis=-2) / variance
    n, residual = x.shape[-2], y - slope[..., None, :] * x
    error = np.sqrt(np.mean(x**2 * residual**2, axis=-2) / (n - dof)) / variance
    saved = None if times is None else save_times(times)
    if saved is not None and (slope.ndim < 2 or slope.shape[-2] != len(saved)):
        raise ValueError(
            f"`reconstructions` must have shape (…, {len(saved)}, n, D) for as many `times`, "
            f"got {np.shape(reconstructions)}"
        )
    return ModeDynamics(slope, variance, np.ones(variance.shape[-1], int), saved, error)


def _diagonal(pairs: Real) -> Real:
    return jnp.diagonal(jnp.asarray(pairs), axis1=-2, axis2=-1)


@eqx.filter_jit
def _mean_slopes(network: Autoencoder, q: Real, bias: Real) -> Real:
    """Return c_k at field variances and biases (…, K)."""

    def one(q: Real, b: Real) -> Real:
        return mean_slope(network.activation, q, b if network.bias else None)

    hidden = q.shape[-1]
    return jax.vmap(one)(q.reshape(-1, hidden), bias.reshape(-1, hidden)).reshape(q.shape)


def _products(trajectory: Trajectory) -> tuple[Real, Real, np.ndarray]:
    """Return u_jk w_jk (…, T, modes, K) of the modes, their eigenvalues and multiplicities."""
    spectrum, saved = trajectory.problem.spectrum, trajectory.densities
    spikes = jnp.asarray(spectrum.spikes)
    order = jnp.argsort(-spikes, axis=-1, stable=True)
    eigenvalues = spectrum.dim * jnp.take_along_axis(spikes, order, axis=-1)
    if saved is not None:
        own = _diagonal(saved.spikes.r)
        index = jnp.broadcast_to(order[..., None, :, None], own.shape)
        own = jnp.take_along_axis(own, index, axis=-2)
        values = jnp.concatenate([own, _diagonal(saved.bulk.r)], axis=-2)
        eigenvalues = jnp.concatenate([eigenvalues, jnp.asarray(spectrum.bulk)], axis=-1)
        return values, eigenvalues, np.asarray([1] * spikes.shape[-1] + [*spectrum.multiplicity])
    rows = trajectory.components
    if rows is None:
        raise ValueError(
            "`trajectory` has no spikes to follow: give the spectrum some, or use "
            "predict(..., densities=True), or mode_map_of_weights for the weights of a simulation"
        )
    values = jnp.asarray(rows.encoder) * jnp.asarray(rows.decoder)
    count = values.shape[-2]
    return values, eigenvalues[..., :count], np.ones(count, int)


def _stacked(problem: Problem, weights: Any) -> tuple[Real, Real, Real, bool]:
    """Return W, V (runs, K, D) and biases (runs, K), and whether there was an axis of runs."""
    given = weights.weights if isinstance(weights, Checkpoint) else weights
    if not isinstance(given, tuple) or len(given) not in (2, 3, 4):
        got = type(weights).__name__
        raise ValueError(f"`weights` must be a Checkpoint, Weights or (W, V), got {got}")
    many = np.ndim(given[1]) == 3
    runs = [given]
    if many:
        runs = [[p if p is None else p[i] for p in given] for i in range(len(given[1]))]
    parts = zip(*(check_weights(problem, *run)[:3] for run in runs), strict=True)
    W, V, bias = (jnp.stack(part) for part in parts)
    return W, V, bias, many


def _samples(samples: ArrayLike, reconstructions: ArrayLike) -> tuple[Real, Real]:
    x, y = numbers("samples", samples), numbers("reconstructions", reconstructions)
    if is_traced((x, y)):
        raise ValueError("estimate_mode_map needs concrete samples; it can't be called under jit")
    if x.ndim < 2 or y.ndim < x.ndim or x.shape[-2:] != y.shape[-2:]:
        raise ValueError(
            "`samples` and `reconstructions` must have shapes (n, D) and (…, n, D), got "
            f"{x.shape} and {y.shape}"
        )
    if any(a not in (1, b) for a, b in zip(x.shape[-3::-1], y.shape[-3::-1], strict=False)):
        raise ValueError(
            f"leading axes of `samples` must be the same as of `reconstructions`, got {x.shape} "
            f"and {y.shape}"
        )
    if x.shape[-2] < 3:
        raise ValueError(f"`samples` must hold at least 3 of them, got {x.shape[-2]}")
    finite("samples", x)
    finite("reconstructions", y)
    return x, y


def _orthonormal(basis: ArrayLike, dim: int) -> Real:
    columns = array("basis", basis, (dim, None))
    off = np.max(np.abs(columns.T @ columns - np.eye(columns.shape[1])), initial=0.0)
    if off > 1e-4:  # eigenvectors found in float32 are good to 1e-6
        raise ValueError(
            f"`basis` must have orthonormal columns ψ_j, but ψ_i·ψ_j is off by {off:.2g}"
        )
    return columns
