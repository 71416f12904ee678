"""The equations of aligned weights: one component to each neuron."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.rule import AbstractRule


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
        m = self.network.activation.moments(self.variance(alpha), b)
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
    m = network.activation.moments(q, b)
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
