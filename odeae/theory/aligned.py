"""Reduced dynamics: the aligned ansatz as equations of its own, and the best decoder of an encoder.

Neuron k sits on spike k and nowhere else, w_k = α_k ψ_k, u_k = β_k ψ_k. The K×K averages are
diagonal then, and every neuron is a problem of its own with two unknowns (docs/theory.md 8).
Errors are sums of what is left to explain: one of 1e-20 has as many digits as one of 1.
"""

import functools
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from odeae.averages.activations import (
    AbstractActivation,
    Erf,
    Linear,
    Pairs,
    Quadrature,
    ReLU,
    mean_output,
    mean_slope,
    overlap,
)
from odeae.averages.special import beyond_sine, safe_sqrt
from odeae.base.checks import array, flag, numbers, save_times, scalar, whole
from odeae.base.contractions import diagonal
from odeae.base.messages import counted, explains_arguments, shortened
from odeae.base.precision import Real, float64, in_float64, is_traced
from odeae.model.autoencoder import Autoencoder
from odeae.model.errors import excess_error
from odeae.model.problem import Problem, check_state, sizes
from odeae.model.rules import AbstractRule
from odeae.model.schedules import check_schedule, jumps_before, longest_step
from odeae.model.spectrum import leading_modes
from odeae.model.state import Modes, State, total_overlaps
from odeae.results.trajectory import Status
from odeae.theory.equations import is_huge
from odeae.theory.predict import MAX_STEPS, status_of
from odeae.theory.regime import warn_outside
from odeae.theory.rosenbrock import Rodas4
from odeae.theory.step_control import ROUNDING_IMPLICIT, SMALLEST, StepControl


class Moments(NamedTuple):
    """Averages of one neuron at field variance q and bias b, each (K,) (docs/theory.md 3 and 8).

    c = E[g'] with c_q = ∂c/∂q, c_b = ∂c/∂b. N = E[(g(λ+b) − cλ)²] = G − c² q is the output that is
    no linear function of the field, with N_q = ∂N/∂q and N_b = ∂N/∂b.
    """

    c: Real
    c_q: Real
    c_b: Real
    N: Real
    N_q: Real
    N_b: Real


def moments(
    activation: AbstractActivation, q: Float[Real, " hidden"], b: Float[Real, " hidden"] | None
) -> Moments:
    """Return the averages of neurons; N to full relative precision also where q → 0.

    (Quadrature: to 1e-7, as its nodes end at 7 standard deviations; sigmoidal units with biases and
    activations of one's own by subtraction, so to 1e-16 in units of G.)
    """
    c, c_q, c_b = activation.slopes(q, b)
    if isinstance(activation, Linear):
        N = jnp.zeros_like(q) if b is None else b * b
        return Moments(c, c_q, c_b, N, jnp.zeros_like(q), 2.0 * (0.0 * q if b is None else b))
    if isinstance(activation, Erf) and b is None:
        v, root = 1.0 + q, jnp.sqrt(1.0 + 2.0 * q)
        slope = (2.0 / np.pi) * jnp.square(q / v) / (root * (v + root))
        return Moments(
            c, c_q, c_b, (2.0 / np.pi) * beyond_sine(q, root, v), slope, jnp.zeros_like(q)
        )
    if isinstance(activation, Quadrature):
        return Moments(c, c_q, c_b, *_by_quadrature(activation, q, b, c))
    G, G_q, G_b = _second_moment(activation, q, b)
    N_q, N_b = G_q - c * c - 2.0 * c * c_q * q, G_b - 2.0 * c * c_b * q
    return Moments(c, c_q, c_b, G - c * c * q, N_q, N_b)


def _by_quadrature(activation, q, b, c):
    """(N, N_q, N_b) with r = g − cλ: E[r²], E[(g' − c)²] + E[r g''] and 2 E[r g'] (Price)."""
    fn = activation.fn

    def at(nodes):
        z, weight = nodes
        field = safe_sqrt(q)[:, None] * z[None, :]
        x = field if b is None else field + b[:, None]
        one = jnp.ones_like(x)

        def slope(x):
            return jax.jvp(fn, (x,), (one,))[1]

        g1, g2 = jax.jvp(slope, (x,), (one,))
        r = fn(x) - c[:, None] * field
        N_q = jnp.square(g1 - c[:, None]) + r * g2
        return jnp.square(r) @ weight, N_q @ weight, 2.0 * (r * g1) @ weight

    return activation.over_nodes(q, at)


def _second_moment(activation, q, b):
    """G = E[g²] of each neuron with its derivatives by q and b."""
    if isinstance(activation, ReLU):
        if b is None:
            return 0.5 * q, jnp.full_like(q, 0.5), jnp.zeros_like(q)
        mean, share = activation.mean(q, b), activation.slopes(q, b)[0]
        return b * mean + q * share, share, 2.0 * mean

    def one(q, b):
        q, b = q[None, None], None if b is None else b[None, None]
        return [x[0, 0] for x in activation.pairs(Pairs(q, q, q, b, b))]

    G, P, S, B = jax.vmap(one)(q, b)
    return G, P + S, 2.0 * B


# ------------------------------------------------------------------------ the reduced equations


class Reduced(eqx.Module):
    """What the reduced equations need: rule, network, ρ̃ of the K spikes, s²/D.

    `biased`: whether the bias is followed, which the ansatz allows for one neuron.
    """

    rule: AbstractRule
    network: Autoencoder
    rho: Float[Real, " hidden"]
    noise: Float[Real, ""]
    biased: bool = eqx.field(static=True)

    def parts(self, y: Float[Real, "hidden unknowns"]) -> tuple[Real, Real, Real | None]:
        """Return α, β and b (None for none), each (K,), of the unknowns."""
        beta = y[:, 0] if self.network.tied else y[:, 1]
        alpha = self.network.gain * beta if self.network.tied else y[:, 0]
        return alpha, beta, y[:, -1] if self.biased else None

    def excess(self, y: Float[Real, "hidden unknowns"]) -> Float[Real, ""]:
        """Error above that of a perfect map of these K modes, a sum of positive terms.

        Σ_k ½ ρ̃ (1 − cαβ)² + ½ β² (c² α² s²/D + N): the part of the mode that is not passed on,
        the noise that is, and the output that is not linear (docs/theory.md 8).
        """
        alpha, beta, b = self.parts(y)
        m = moments(self.network.activation, self.variance(alpha), b)
        left = self.rho * jnp.square(1.0 - m.c * alpha * beta)
        made = jnp.square(beta) * (jnp.square(m.c * alpha) * self.noise + m.N)
        return 0.5 * jnp.sum(left + made)

    def variance(self, alpha: Float[Real, " hidden"]) -> Float[Real, " hidden"]:
        """Variances q = (ρ̃ + s²/D) α² of the fields."""
        return (self.rho + self.noise) * jnp.square(alpha)


def reduced_drift(t, y: Float[Real, "hidden unknowns"], equations: Reduced):
    """d(α, β, b)/dt of every neuron: docs/theory.md 4 and 5 on the aligned manifold.

    With q = ρ̃_in α² and x = ρ̃ − ρ̃_in cαβ, what the neuron leaves to explain,

        dα = η_w β [(c + 2 q c_q) x − ρ̃_in αβ N_q] − κα
        dβ = η_v [cα x − β N] − κβ
        db = η_b β [c_b α x − ½ β N_b]

    N = G − c² q has its own formula, so that nothing cancels along the valley x → 0. Tied rows
    α = sβ move by their decoder part plus s times their encoder part; without feedback (Hebb),
    dβ = η ρ̃ cα − κβ.
    """
    rule, network = equations.rule, equations.network
    lr_w, lr_u, lr_b, _ = (rule.factor(t) * rate for rate in rule.rates(network))
    alpha, beta, b = equations.parts(y)
    rho, rho_in = equations.rho, equations.rho + equations.noise
    q = equations.variance(alpha)
    m = moments(network.activation, q, b)
    passed = m.c * alpha * beta
    left = rho * (1.0 - passed) - equations.noise * passed
    encoder = lr_w * beta * ((m.c + 2.0 * q * m.c_q) * left - rho_in * alpha * beta * m.N_q)
    decoder = lr_u * (m.c * alpha * left - beta * m.N)
    if rule.feedback == "none":
        decoder = lr_u * rho * m.c * alpha
    decay = rule.weight_decay
    if network.tied:
        change = [decoder + network.gain * encoder - decay * beta]
    else:
        change = [encoder - decay * alpha, decoder - decay * beta]
    if b is not None:
        change.append(lr_b * beta * (m.c_b * alpha * left - 0.5 * beta * m.N_b))
    return jnp.stack(change, axis=1)


# ----------------------------------------------------------------------------------- one solve


class AlignedTrajectory(eqx.Module):
    """A learning curve of the aligned ansatz; a batch under `jax.vmap` leads with its own axis.

    `times` (T,): steps/D. `encoder`, `decoder` (T, K): α_k and β_k, the entries of w_k and u_k on
    spike k. `bias` (T, K). `error` (T,): generalisation error. `excess` (T,): above the PCA error
    of rank K, with as many digits as α and β have. `status`: a `Status` value, `stop_time`: the
    time that was reached; NaN after it.
    """

    times: Float[Real, "*batch times"]
    encoder: Float[Real, "*batch times hidden"]
    decoder: Float[Real, "*batch times hidden"]
    bias: Float[Real, "*batch times hidden"]
    error: Float[Real, "*batch times"]
    excess: Float[Real, "*batch times"]
    status: Int[Real, "*batch"]
    stop_time: Float[Real, "*batch"]

    def __repr__(self):
        if is_traced(self) or self.error.ndim > 1:
            return f"AlignedTrajectory(error of shape {self.error.shape})"
        reached = np.flatnonzero(np.isfinite(self.error))
        lines = [
            f"AlignedTrajectory: K={self.encoder.shape[-1]}, {counted(len(self.times), 'time')}, "
            f"t = {self.times[0]:.4g} … {self.times[-1]:.4g}"
        ]
        if len(reached):
            first, last = reached[0], reached[-1]
            for name in ("error", "excess"):
                values = getattr(self, name)
                lines.append(f"  {name:8} {values[first]:.6g} → {values[last]:.6g}")
        lines.append(f"  status   {Status(int(self.status)).message(float(self.stop_time))}")
        return "\n".join(lines)


@explains_arguments
@in_float64
def predict_aligned(
    problem: Problem,
    times: Any,
    encoder: Any = None,
    decoder: Any = 1.0,
    bias: Any = 0.0,
    *,
    rtol: Any = 1e-8,
    throw: bool = True,
    max_steps: int | None = None,
) -> AlignedTrajectory:
    """Integrate the aligned ansatz: the curve of `predict` from `aligned_state`, in 2K equations.

    `times` (T,): steps/D, increasing, from 0 on. `encoder`, `decoder`: α and β of each neuron at
    t = 0, scalars or (K,), 1 by default; tied weights have only `decoder`. `bias`: the start of the
    bias, for one neuron. `rtol`: relative tolerance of α and β, and so of `excess` along the valley
    of 8 (1e-8 leaves 4e-8 at t = 1e9). The method is implicit: t = 1e12 takes ten thousand steps.

    Works for what keeps the ansatz: every rule, tied or not, denoising, decay, schedules, for
    activations of zero mean output (erf, linear, tanh, any odd function); for one neuron, all
    activations and a trained bias. Neurons of non-zero mean output (ReLU, biases) are correlated
    whatever directions they have, G_kl = ⟨g_k⟩⟨g_l⟩, and pull each other's decoders off their
    components: that is refused. The spikes need not be the largest eigenvalues: then `excess`
    ends at the difference in PCA levels.

    Pure JAX: `jit`, `vmap` and `grad` go through it. A single problem that fails raises
    `RuntimeError` unless `throw=False`; the part of the curve that was reached is kept, with NaN
    after it, and `status` and `stop_time` say so. Batches never raise.

    Source: docs/theory.md 8 (Refinetti & Goldt 2022, App. C).
    """
    spectrum, hidden = sizes(problem)
    check_invariant(problem)
    times = save_times(times)
    throw = flag("throw", throw)
    rtol = scalar("rtol", rtol, above=0.0)
    if not is_traced(rtol) and rtol > 0.1:
        raise ValueError(f"`rtol` must be at most 0.1, got {float(rtol):g}")
    max_steps = MAX_STEPS if max_steps is None else whole("max_steps", max_steps)
    check_schedule(problem.rule.schedule, times[-1])
    warn_outside(problem, times[-1])
    start, biased = _start(problem, encoder, decoder, bias)
    rho = spectrum.spikes[:hidden]
    equations = Reduced(problem.rule, problem.autoencoder, rho, problem.inputs.noise, biased)
    others, above = _levels(problem)
    y, excess, status, stop_time = _solve(equations, start, times, rtol, max_steps)
    if not is_traced(status) and throw and (ended := Status(int(status))) is not Status.OK:
        message = ended.message(float(stop_time))
        raise RuntimeError(f"the solve {message}. In Python throw=False keeps the part before")
    alpha, beta, b = jax.vmap(equations.parts)(y)
    b = jnp.where(jnp.isfinite(alpha), 0.0, jnp.nan) if b is None else b
    return AlignedTrajectory(
        times, alpha, beta, b, others + excess, above + excess, status, stop_time
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


def has_zero_mean(activation: AbstractActivation) -> bool:
    """Whether ⟨g(λ)⟩ = 0 at every variance of a field without bias, that is, whether g is odd.

    Of an activation with numbers of its own that are traced, which nobody can know, False.
    """
    if is_traced(activation):
        return False
    numbers = jax.tree.leaves(activation)  # which can't be hashed
    return (_has_zero_mean.__wrapped__ if numbers else _has_zero_mean)(activation)


@functools.lru_cache(maxsize=64)
def _has_zero_mean(activation: AbstractActivation) -> bool:
    largest = activation.q_max if isinstance(activation, Quadrature) else 100.0
    q = np.geomspace(1e-3, largest, 12)
    with float64(), jax.ensure_compile_time_eval():
        m = moments(activation, jnp.asarray(q), None)
        mean, square = activation.mean(jnp.asarray(q), None), m.N + m.c * m.c * q
    return bool(np.all(np.abs(mean) <= 1e-10 * np.sqrt(square)))


def _start(problem, encoder, decoder, bias):
    """Return the unknowns (K, n) at t = 0, and whether the bias is one of them."""
    network = problem.autoencoder
    hidden, biased = network.hidden, network.bias and network.hidden == 1
    if network.tied and encoder is not None:
        raise ValueError("`encoder` must not be given for tied weights: give `decoder`")
    columns = [] if network.tied else [_per_neuron("encoder", encoder, hidden)]
    columns.append(_per_neuron("decoder", decoder, hidden))
    b = _per_neuron("bias", bias, hidden)
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


def _per_neuron(name, value, hidden):
    value = numbers(name, 1.0 if value is None else value)
    value = array(name, value, () if value.ndim == 0 else (hidden,))
    return value if value.ndim else value * np.ones(hidden)


def _levels(problem: Problem) -> tuple[Real, Real]:
    """Error of what is not on the K spikes, and how much of it K other modes could explain.

    The second is exactly 0 where these spikes are the K largest eigenvalues.
    """
    spectrum, hidden = problem.spectrum, problem.autoencoder.hidden
    spikes, bulk = jnp.asarray(spectrum.spikes), jnp.asarray(spectrum.bulk) / spectrum.dim
    modes = np.asarray(spectrum.multiplicity, float)
    others = 0.5 * (jnp.sum(spikes[hidden:]) + jnp.sum(bulk * modes))
    kept, leading = spikes[:hidden], leading_modes(spectrum, hidden)
    largest = -jnp.sort(-spikes)[:hidden]
    above = jnp.sum(largest + jnp.sort(-kept)) + leading.rest
    return others, 0.5 * above


def _stop(t, y, equations: Reduced, **kwargs):
    q = equations.variance(equations.parts(y)[0])
    resolved = equations.network.activation.resolves(1.001 * q)
    return ~resolved | is_huge(y)


def _of_mode(equations: Reduced, size):
    """For each unknown (K, n) the largest of its mode, which its rate of change is made of."""
    return jnp.broadcast_to(jnp.max(size, axis=1, keepdims=True), size.shape)


@eqx.filter_jit
def _solve(equations: Reduced, start, times, rtol, max_steps):
    """Unknowns (T, K, n), excess (T,) over the K modes, status, stop time."""
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
    return jnp.where(reached[:, None, None], saved, jnp.nan), excess, status, stop_time


# ---------------------------------------------------------------- the best decoder of an encoder


@explains_arguments
@in_float64
def best_decoder(problem: Problem, state: State) -> State:
    """Return `state` with the decoder that has the least error for its encoder and biases.

    The error is quadratic in the decoder: per mode, u = G⁻¹ (ρ̃ c∘w). With an output bias,
    u = (G − m mᵀ)⁻¹ (ρ̃ c∘w) and u_0 = −m·u, m = ⟨g⟩, so that the mean output vanishes. Of decoders
    that are equally good (neurons that are copies of each other, or dead) it is the one with the
    least Σ_k G_kk u_k². Rates and decay play no part. Exact for the lumped rows of a bulk as well.

    Raises `ValueError` for tied weights, whose decoder is not free. Source: docs/theory.md 8.
    """
    state = check_state(problem, state)
    network, inputs = problem.autoencoder, problem.inputs
    if network.tied:
        raise ValueError(
            "`problem` must be untied: tied weights have no decoder of their own to be chosen"
        )
    unknowns = state.unknowns()
    rows, total = unknowns.rows, total_overlaps(unknowns, inputs)
    q, b = diagonal(total.Q1), state.bias if network.bias else None
    c, G = mean_slope(network.activation, q, b), overlap(network.activation, total.Q1, b)
    mean = mean_output(network.activation, q, b) if network.output_bias else None
    if mean is not None:
        G = G - mean[:, None] * mean[None, :]
    decoder = (inputs.rho[:, None] * c[None, :] * rows.encoder) @ _inverse(G)
    output = None if mean is None else -decoder @ mean
    return State.from_rows(
        Modes(jnp.asarray(rows.encoder), decoder, output), inputs.spikes.shape[0], state.bias
    )


def _inverse(G):
    """Pseudo-inverse of a covariance, for variances of any sizes."""
    size = safe_sqrt(jnp.maximum(diagonal(G), 0.0))
    scale = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    scale = scale[:, None] * scale[None, :]
    return scale * jnp.linalg.pinv(scale * G, rtol=1e-13 * G.shape[0], hermitian=True)


@explains_arguments
@in_float64
def residual(problem: Problem, state: State) -> Float[Real, ""]:
    """Least excess error above the PCA error of rank K that a decoder can leave, of an encoder.

    That of `best_decoder(problem, state)`, to all its digits: for a sigmoidal neuron on one mode
    ½ ρ̃ (1 − y/arcsin y), y = q/(1 + q), q = ρ̃ α². It vanishes only where the encoder spans the
    leading components and nothing non-linear is left. Source: docs/theory.md 8.
    """
    best, network = best_decoder(problem, state), problem.autoencoder
    leading = leading_modes(problem.spectrum, network.hidden)
    return excess_error(network, problem.inputs, leading, best.unknowns())
