"""Where neurons point, in principal components."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from odeae.averages.special import safe_sqrt
from odeae.base.precision import Real
from odeae.model.state import Components


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


def principal_overlaps(components: Components, gram_w: Real, gram_u: Real) -> PrincipalOverlaps:
    """Overlaps of rows along the components, given W Wᵀ and V Vᵀ/D of all modes, (…, T, K, K)."""
    w, u = (jnp.swapaxes(rows, -1, -2) for rows in (components.encoder, components.decoder))
    return PrincipalOverlaps(
        _cosines(w, jnp.diagonal(gram_w, axis1=-2, axis2=-1)),
        _cosines(u, jnp.diagonal(gram_u, axis1=-2, axis2=-1)),
        _cosines(w, jnp.sum(w * w, axis=-1)),
        _cosines(u, jnp.sum(u * u, axis=-1)),
        _share(w, gram_w),
        _share(u, gram_u),
    )
