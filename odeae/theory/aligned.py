"""Reduced dynamics: the aligned ansatz as equations of its own, and the best decoder of an encoder.

Neuron k sits on spike k and nowhere else, w_k = α_k ψ_k, u_k = β_k ψ_k. The K×K averages are
diagonal then, and every neuron is a problem of its own with two unknowns (docs/theory.md 8).
Errors are sums of what is left to explain: one of 1e-20 has as many digits as one of 1.
"""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from odeae.averages.activation import has_zero_mean
from odeae.base.checks import flag, tolerance, whole
from odeae.base.messages import explains_arguments, shortened
from odeae.base.precision import ArrayLike, in_float64, is_traced
from odeae.base.status import Status
from odeae.base.times import save_times
from odeae.model.initial import per_neuron, state_on_spikes
from odeae.model.leading import beyond_first_spikes
from odeae.model.problem import Problem, sizes
from odeae.model.schedules import check_schedule, jumps_before, longest_step
from odeae.results.aligned import AlignedTrajectory, aligned_trajectory
from odeae.results.trajectory import settings_json
from odeae.theory.equations import is_huge
from odeae.theory.reduced import Reduced, reduced_drift
from odeae.theory.regime import warn_outside
from odeae.theory.rosenbrock import Rodas4
from odeae.theory.solve import status_of
from odeae.theory.step_control import ROUNDING_IMPLICIT, SMALLEST, StepControl
from odeae.theory.strategy import MAX_STEPS


@explains_arguments
@in_float64
def predict_aligned(
    problem: Problem,
    times: ArrayLike,
    encoder: ArrayLike | None = None,
    decoder: ArrayLike = 1.0,
    bias: ArrayLike = 0.0,
    *,
    rtol: ArrayLike = 1e-8,
    throw: bool = True,
    max_steps: int | None = None,
) -> AlignedTrajectory:
    """Integrate the aligned ansatz: the curve of `predict` from `aligned_state`, in 2K equations.

    Works for what keeps the ansatz: every rule, tied or not, denoising, decay, schedules, for
    activations of zero mean output (erf, linear, tanh, any odd function); for one neuron, all
    activations and a trained bias. Neurons of non-zero mean output (ReLU, biases) are correlated
    whatever directions they have, G_kl = ⟨g_k⟩⟨g_l⟩, and pull each other's decoders off their
    components: that is refused. The spikes need not be the largest eigenvalues: then `excess`
    ends at the difference in PCA levels.

    Pure JAX: `jit`, `vmap` and `grad` go through it. The method is implicit: t = 1e12 takes ten
    thousand steps.

    Args:
        problem: What is trained, on what, how.
        times: (T,), steps/D, increasing, from 0 on.
        encoder: α of each neuron at t = 0, a scalar or (K,), 1 by default; None for tied weights.
        decoder: β of each neuron at t = 0, a scalar or (K,).
        bias: The start of the bias, for one neuron.
        rtol: Relative tolerance of α and β, and so of `excess` along the valley of 8 (1e-8 leaves
            4e-8 at t = 1e9).
        throw: Whether a single problem that fails raises; else the part of the curve that was
            reached is kept, with NaN after it. Batches never raise.
        max_steps: Of the solver, 100,000 by default.

    Returns:
        A `Trajectory` with the fields `encoder` and `decoder` (T, K) beside all others.

    Raises:
        ValueError: For arguments of wrong kinds or shapes, and problems that leave the ansatz.
        RuntimeError: If a single problem fails, unless `throw=False`.

    Example:
        >>> problem = odeae.Problem(odeae.Spectrum.spiked([1.0], dim=1000), odeae.Autoencoder(1))
        >>> odeae.predict_aligned(problem, odeae.log_times(1e9), 1.0, 0.5).excess[-1]

    Source: docs/theory.md 8 (Refinetti & Goldt 2022, App. C).
    """
    spectrum, hidden = sizes(problem)
    check_invariant(problem)
    saved = save_times(times)
    throw = flag("throw", throw)
    relative = tolerance(rtol)
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    check_schedule(problem.rule.schedule, saved[-1])
    warn_outside(problem, saved[-1])
    start, biased = _start(problem, encoder, decoder, bias)
    rho = spectrum.spikes[:hidden]
    equations = Reduced(problem.rule, problem.autoencoder, rho, problem.inputs.noise, biased)
    others, above = beyond_first_spikes(spectrum, hidden)
    done = _solve(equations, start, saved, relative, max_steps)
    y, excess, status, stop_time, last, steps = done
    if not is_traced(status) and throw and (ended := Status(int(status))) is not Status.OK:
        message = ended.message(float(stop_time))
        raise RuntimeError(f"the solve {message}. In Python throw=False keeps the part before")
    alpha, beta, b = jax.vmap(equations.parts)(y)
    b = jnp.where(jnp.isfinite(alpha), 0.0, jnp.nan) if b is None else b
    return aligned_trajectory(
        problem if not is_traced((status, y)) else problem.without_basis(),
        saved,
        alpha,
        beta,
        b,
        others + excess,
        above + excess,
        status=status,
        stop_time=stop_time,
        initial=state_on_spikes(problem, *equations.parts(start)),
        final=dataclasses.replace(state_on_spikes(problem, *equations.parts(last)), time=stop_time),
        settings=settings_json(rtol=relative, solver="Rodas4", max_steps=max_steps),
        steps=steps,
    )


def check_invariant(problem: Problem) -> None:
    """Raise `ValueError` for a problem of which the drift leaves the aligned manifold.

    du_l^k = −η_v Σ_a m_ka G_ka u_l^a on the mode l of another neuron is −η_v m_kl G_kl β_l with
    G_kl = ⟨g_k⟩⟨g_l⟩, and an output bias moves by −η_v Σ_k ⟨g_k⟩ β_k: both need ⟨g⟩ = 0. Truncation
    leaves m_kl = 1 for l < k.
    """
    (spectrum, hidden), network = sizes(problem), problem.autoencoder
    spikes, odd = spectrum.spikes.shape[0], has_zero_mean(network.activation)
    if hidden > spikes:
        raise ValueError(
            f"the aligned ansatz needs one spike per neuron: got {hidden} neurons and {spikes} "
            "spikes; give the spectrum more `spikes`"
        )
    if odd or (hidden == 1 and not network.output_bias):
        return
    what = "several neurons" if hidden > 1 else "an output bias"
    raise ValueError(
        f"the aligned ansatz with {what} needs an activation of zero mean output (odd, such as "
        f"erf, linear, tanh), got {shortened(network.activation)}, whose neurons pull decoders "
        "off their components; use predict(problem, aligned_state(problem), times)"
    )


def _start(problem, encoder, decoder, bias):
    """Return the unknowns (K, n) at t = 0, and whether the bias is one of them."""
    network = problem.autoencoder
    hidden, biased = network.hidden, network.bias and network.hidden == 1
    if network.tied and encoder is not None:
        raise ValueError("`encoder` must not be given for tied weights: give `decoder`")
    columns = []
    if not network.tied:
        columns.append(per_neuron("encoder", 1.0 if encoder is None else encoder, hidden))
    columns.append(per_neuron("decoder", decoder, hidden))
    b = per_neuron("bias", bias, hidden)
    if biased:
        columns.append(b)
    zero = not is_traced(b) and not np.any(b)
    if not zero and not biased:
        raise ValueError(
            "`bias` must be 0 here: the aligned ansatz follows the bias of a single neuron, of an "
            "Autoencoder(1, ..., bias=True)"
        )
    if not zero and network.output_bias:
        raise ValueError(
            "`bias` must be 0 with an output bias, which would move off 0; use predict(problem, "
            "aligned_state(problem), times)"
        )
    return jnp.stack([jnp.asarray(column) for column in columns], axis=1), biased


def _stop(t, y, equations: Reduced, **kwargs):
    q = equations.variance(equations.parts(y)[0])
    resolved = equations.network.activation.resolves(1.001 * q)
    return ~resolved | is_huge(y)


def _of_mode(equations: Reduced, size):
    """For each unknown (K, n) the largest of its mode, which its rate of change is made of."""
    return jnp.broadcast_to(jnp.max(size, axis=1, keepdims=True), size.shape)


@eqx.filter_jit
def _solve(equations: Reduced, start, times, rtol, max_steps):
    """Unknowns (T, K, n), excess (T,) over the K modes, status, stop time, last unknowns, steps."""
    schedule = equations.rule.schedule
    controller = StepControl(
        rtol=rtol, atol=SMALLEST * rtol, end=times[-1],
        longest=longest_step(schedule, times[-1]), around=_of_mode, rounding=ROUNDING_IMPLICIT,
    )  # fmt: skip
    controller = diffrax.ClipStepSizeController(
        controller, step_ts=times, jump_ts=jumps_before(schedule, times[-1])
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(reduced_drift), Rodas4(), t0=0.0, t1=times[-1], dt0=None, y0=start,
        args=equations,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=times), diffrax.SubSaveAt(t1=True)]
        ),
        stepsize_controller=controller, event=diffrax.Event(_stop), max_steps=max_steps,
        throw=False,
    )  # fmt: skip
    assert solution.ys is not None
    assert solution.ts is not None
    saved, (last,) = solution.ys
    reached, (stop_time,) = jnp.isfinite(solution.ts[0]), solution.ts[1]
    status = status_of(solution.result, last)
    saved = jnp.where(reached[:, None, None], saved, 1.0)  # a derivative of NaN would be NaN
    excess = jnp.where(reached, jax.vmap(equations.excess)(saved), jnp.nan)
    saved = jnp.where(reached[:, None, None], saved, jnp.nan)
    return saved, excess, status, stop_time, last, solution.stats["num_steps"]
