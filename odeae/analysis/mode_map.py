"""Mode dynamics: how much of each principal component a network passes on, as it learns.

The map of mode j is ρ̂_j/ρ_j, ρ_j = ⟨(ψ_j·x)²⟩ being its eigenvalue and ρ̂_j = ⟨(ψ_j·x)(ψ_j·x̂)⟩
the diagonal of the cross-covariance of input and reconstruction in the eigenbasis, where x is the
target: with denoising, the input before its corruption. For a linear network it is w_2 w_1 of the
mode, for any network the slope of the best linear fit of ψ_j·x̂ to ψ_j·x: 0 is not learnt, 1 passed
on in full.

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
from odeae.base.precision import Real, in_float64, is_traced
from odeae.base.times import save_times
from odeae.model.initial import check_weights
from odeae.model.problem import Problem, sizes
from odeae.results.checkpoint import Checkpoint
from odeae.results.trajectory import Trajectory

# Of the samples' whole variance: below, a mode has nothing but what rounding its eigenvector left.
_NO_VARIANCE = 1e-13


class ModeDynamics(eqx.Module):
    """The map ρ̂_j/ρ_j of each mode, from theory, from simulated weights or from samples.

    `map` (…, T, modes): ρ̂_j/ρ_j, no unit; a bulk bin holds the mean of its modes. Without
    `times` (T,), in steps/D, there is no axis T. `eigenvalues` (…, modes): ρ_j, not scaled;
    of samples, their variance. `multiplicity` (modes,): 1, for a bin its number of modes.
    `standard_error`: of samples, the shape of `map`, None otherwise. `status` (…): `Status` of each
    curve, whose map is NaN where it was not reached; None for samples. `source`: "samples", or what
    the trajectory was.
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
    """ρ̂_j/ρ_j = Σ_k u_jk c_k w_jk of the modes of a trajectory, exact for Gaussian inputs.

    By Stein's lemma ⟨(ψ_j·x) g(λ_k + b_k)⟩ = c_k ρ_j w_jk/√D, and ψ_j·x̂ = √D Σ_k u_jk g_k: no D
    is left. c_k is the mean slope at the variance Q1_kk of the field, rows w and u are those of
    docs/theory.md 2. Output biases don't contribute. `clean`: of a denoising network, map of
    clean inputs instead of corrupted ones, which are what it is trained on; only c_k differs.

    Modes: the leading spikes, by falling eigenvalue; if the trajectory has `densities`, all spikes
    and then the bulk bins. (All modes of finite weights: `mode_map_of_weights`.) `jit`, `vmap` and
    `grad` go through it.

    Raises `ValueError` for a trajectory without spikes and without densities.
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
    problem: Problem, weights: Any, clean: bool = False
) -> Float[Real, "*runs dim"]:
    """ρ̂_j/ρ_j of all D modes at finite weights (…, D), exact for Gaussian inputs.

    `weights`: what a simulation ended with (`runs.weights`), or (W, V) or (W, V, bias) or
    `Weights`, shapes (K, D), (K, D), (K,), for all runs with a leading axis, in the eigenbasis.
    Modes are in the order of `problem.spectrum.eigenvalues()`. `clean`: as in `mode_map`.

    Raises `ValueError` for weights of other shapes, and for field variances that a `Quadrature`
    doesn't resolve.
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
    samples: Any,
    reconstructions: Any,
    basis: Any = None,
    times: Any = None,
    centred: bool = True,
) -> ModeDynamics:
    """ρ̂_j/ρ_j of any network, from samples x and its reconstructions x̂.

    ρ̂_j = mean (ψ_j·x)(ψ_j·x̂) and ρ_j = mean (ψ_j·x)² over the same samples, so that the map is
    the least-squares slope of ψ_j·x̂ on ψ_j·x. `samples` (n, D): the targets x. `reconstructions`
    (…, n, D): x̂ of corrupted inputs for the map that a denoising network is trained on, of x
    itself for that of clean inputs. Leading axes are networks, the last of them `times` (T,) if
    these are given; samples may have them too. `basis` (D, modes): eigenvectors ψ_j in columns
    (`spectrum.basis`, or those of interest); None if entries are along them already. `centred`:
    remove the sample means first; False for second moments about 0, which is what the DAE paper's
    code takes.

    `standard_error` holds for independent samples, whatever the distribution (White 1980, with the
    factor n/(n − parameters)); times share their samples, so their errors are correlated.

    Raises `ValueError` for wrong shapes, fewer than 3 samples, entries that are not finite, a basis
    that is not orthonormal, and modes in which the samples have no variance: there no map exists.
    """
    x, y = _samples(samples, reconstructions)
    dof = 1 + flag("centred", centred)
    if centred:
        x, y = (part - part.mean(axis=-2, keepdims=True) for part in (x, y))
    variance = np.mean(x * x, axis=-2)
    least = _NO_VARIANCE * variance.sum(axis=-1, keepdims=True)
    if basis is not None:
        basis = _orthonormal(basis, x.shape[-1])
        x, y = x @ basis, y @ basis
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
    if times is not None:
        times = save_times(times)
        if slope.ndim < 2 or slope.shape[-2] != len(times):
            raise ValueError(
                f"`reconstructions` must have shape (…, {len(times)}, n, D) for as many `times`, "
                f"got {np.shape(reconstructions)}"
            )
    return ModeDynamics(slope, variance, np.ones(variance.shape[-1], int), times, error)


def _diagonal(pairs):
    return jnp.diagonal(jnp.asarray(pairs), axis1=-2, axis2=-1)


@eqx.filter_jit
def _mean_slopes(network, q, bias):
    """c_k at field variances and biases (…, K)."""

    def one(q, b):
        return mean_slope(network.activation, q, b if network.bias else None)

    hidden = q.shape[-1]
    return jax.vmap(one)(q.reshape(-1, hidden), bias.reshape(-1, hidden)).reshape(q.shape)


def _products(trajectory):
    """u_jk w_jk (…, T, modes, K) of a trajectory's modes, their eigenvalues and multiplicities."""
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


def _stacked(problem, weights):
    """W, V (runs, K, D) and biases (runs, K), and whether there was an axis of runs."""
    given = weights.weights if isinstance(weights, Checkpoint) else weights
    if not isinstance(given, tuple) or len(given) not in (2, 3, 4):
        got = type(weights).__name__
        raise ValueError(f"`weights` must be a Checkpoint, Weights or (W, V), got {got}")
    many = np.ndim(given[1]) == 3
    runs = [given]
    if many:
        runs = [[p if p is None else p[i] for p in given] for i in range(len(given[1]))]
    parts = zip(*(check_weights(problem, *run)[:3] for run in runs), strict=True)
    return *(jnp.stack(part) for part in parts), many


def _samples(samples, reconstructions):
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
            f"leading axes of `samples` must be those of `reconstructions`, got {x.shape} and "
            f"{y.shape}"
        )
    if x.shape[-2] < 3:
        raise ValueError(f"`samples` must hold at least 3 of them, got {x.shape[-2]}")
    finite("samples", x)
    finite("reconstructions", y)
    return x, y


def _orthonormal(basis, dim):
    basis = array("basis", basis, (dim, None))
    off = np.max(np.abs(basis.T @ basis - np.eye(basis.shape[1])), initial=0.0)
    if off > 1e-4:  # eigenvectors found in float32 are good to 1e-6
        raise ValueError(
            f"`basis` must have orthonormal columns ψ_j, but ψ_i·ψ_j is off by {off:.2g}"
        )
    return basis
