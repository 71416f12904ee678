"""Special functions of one and two correlated Gaussians, to full double precision.

All functions that are delicate near correlation ±1 are here: a compensated determinant, a square
root that can be differentiated at zero, and Φ2 from Owen's T function (docs/theory.md 3).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Float

from odeae.base.checks import broadcast, numbers
from odeae.base.precision import ArrayLike, Real, in_float64

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_NODES, _WEIGHTS = 0.5 * (_NODES + 1.0), 0.5 * _WEIGHTS  # Gauss-Legendre on [0, 1]

# Below this |correlation| the Plackett integral is smooth enough for 20 nodes.
_PLACKETT_LIMIT = 0.75

# arctan(x)/x in powers of x², interpolated at Chebyshev nodes of 0 ≤ x ≤ tan(π/8): good to 4e-18.
_ARCTAN = (
    1.0, -0.3333333333333312, 0.19999999999940893, -0.14285714279250245, 0.11111110744919658,
    -0.09090896809064027, 0.07692045330902225, -0.06662951813629191, 0.05846878297330872,
    -0.05035102456601552, 0.03796525745386593, -0.017805397205419446,
)  # fmt: skip

# Coefficients of y³, y⁵, … of arcsin y.
_BEYOND_SINE = [math.comb(2 * n, n) / 4.0**n / (2 * n + 1) for n in range(1, 19)]

# Stands for ±∞ where a finite number is needed: its density is exactly 0, Φ exactly 0 or 1.
_FAR = 1e100


def normal_pdf(x: Float[Real, "..."]) -> Float[Real, "..."]:
    """Return φ(x), the standard normal density."""
    return jnp.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)


def _split(x: Real) -> tuple[Real, Real]:
    """Return (high, low) with x = high + low exactly and at most 26 significant bits in each.

    A compiler that contracts a·b + c can't spoil rounding on the bits, as it can Veltkamp's
    multiplication, nor the product of two such parts, because that product is exact.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int64)
    high = (bits + (1 << 26)) & ~((1 << 27) - 1)
    high = jax.lax.bitcast_convert_type(high, jnp.float64)
    return high, x - high


def _two_sum(x: Real, y: Real) -> tuple[Real, Real]:
    """Return (s, error) with x + y = s + error exactly (Knuth)."""
    s = x + y
    t = s - x
    return s, (x - (s - t)) + (y - t)


@jax.custom_jvp
def det2(a: Any, b: Any, c: Any, d: Any) -> Real:
    """Return the 2×2 determinant a d − b c with a relative error near 1e-16 even if it cancels.

    Each product is cut into partial products that are exact in float64; their sum is compensated.
    """
    a, b, c, d = jnp.broadcast_arrays(*(jnp.asarray(x, jnp.float64) for x in (a, b, c, d)))
    (ah, al), (bh, bl), (ch, cl), (dh, dl) = map(_split, (a, b, c, d))
    total, e1 = _two_sum(ah * dh, -bh * ch)
    total, e2 = _two_sum(total, ah * dl)
    total, e3 = _two_sum(total, -bh * cl)
    total, e4 = _two_sum(total, al * dh)
    total, e5 = _two_sum(total, -bl * ch)
    return total + ((e1 + e2) + (e3 + e4) + e5 + (al * dl - bl * cl))


@det2.defjvp
def _det2_jvp(primals, tangents):
    a, b, c, d = primals
    da, db, dc, dd = tangents
    return det2(a, b, c, d), da * d + a * dd - db * c - b * dc


def safe_sqrt(x: Float[Real, "..."]) -> Float[Real, "..."]:
    """Return √max(x, 0), with derivative 0 at 0, so that solutions can be differentiated at r = ±1.

    For the determinant of two aligned neurons this is the derivative along the aligned set.
    Values below 0 come from the rounding of inputs that are positive semi-definite.
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_ratio(x: Float[Real, "..."], y: Float[Real, "..."]) -> Float[Real, "..."]:
    """Return x/y for y ≥ 0; at y = 0 return 0 if x = 0, else a number so large that Φ is 0 or 1."""
    ratio = x / jnp.where(y > 0, y, 1.0)
    ratio = jnp.where(y > 0, ratio, jax.lax.stop_gradient(jnp.sign(x)) * _FAR)
    return jnp.clip(ratio, -_FAR, _FAR)


def angle(sine: Float[Real, "..."], cosine: Float[Real, "..."]) -> Float[Real, "..."]:
    """Return atan2(sine, cosine) ∈ [0, π] for sine ≥ 0; π/2 where both are 0, with derivative 0."""
    null = (sine == 0) & (cosine == 0)
    return jnp.where(null, np.pi / 2, jnp.arctan2(jnp.where(null, 1.0, sine), cosine))


def arcsine(sine: Real, cosine: Real, norm: Real) -> Real:
    """Return θ ∈ [−π/2, π/2] of sine = norm sin θ, cosine = norm cos θ ≥ 0, to 5e-16.

    The norm must lie within 1e-150 … 1e150. tan(θ/4) is at most tan(π/8), where a polynomial is
    accurate and three times as fast as atan2.
    """
    both = cosine + norm
    quarter = sine / (both + jnp.sqrt(2.0 * norm * both))
    z = quarter * quarter
    series = jnp.full_like(z, _ARCTAN[-1])
    for coefficient in _ARCTAN[-2::-1]:
        series = series * z + coefficient
    return 4.0 * quarter * series


def beyond_sine(sine: Real, cosine: Real, norm: Real) -> Real:
    """Return θ − sin θ of sine = norm sin θ, cosine = norm cos θ ≥ 0, to all its digits.

    Where |y| < 1/3 the series of arcsin y − y is used, whose first 18 terms are good to 1e-18.
    """
    y = sine / norm
    small = jnp.abs(y) < 1.0 / 3.0
    z = jnp.square(jnp.where(small, y, 0.0))
    series = jnp.full_like(z, _BEYOND_SINE[-1])
    for coefficient in _BEYOND_SINE[-2::-1]:
        series = series * z + coefficient
    large = jnp.arctan2(sine, jnp.where(small, 1.0, cosine)) - y
    return jnp.where(small, y * z * series, large)


def _outer(x: Real, nodes: np.ndarray) -> Real:
    return x[..., None] * nodes.reshape((1,) * x.ndim + (-1,))


def _owens_t(h: Real, y: Real) -> Real:
    """Return Owen's T(h, y/h) = (1/2π) ∫₀^{y/h} exp(−h²(1+x²)/2)/(1+x²) dx for h, y ≥ 0.

    For y > h the arguments change places, so the range of integration never exceeds [0, 1], where
    20 nodes give an absolute error near 1e-16.
    """
    small, large = jnp.minimum(h, y), jnp.maximum(h, y)
    slope = small / jnp.where(large > 0, large, 1.0)
    x = _outer(slope, _NODES)
    integrand = jnp.exp(-0.5 * jnp.square(large)[..., None] * (1.0 + x * x)) / (1.0 + x * x)
    t = slope * (integrand @ _WEIGHTS) / (2.0 * np.pi)
    swapped = 0.5 * (ndtr(h) * ndtr(-y) + ndtr(y) * ndtr(-h)) - t
    return jnp.where(y > h, swapped, t)


@jax.custom_jvp
def bvn_excess(h: Real, k: Real, arcsin_r: Real, h_given_k: Real, k_given_h: Real) -> Real:
    """Return Φ2(h, k; r) − Φ(h)Φ(k), the part of the distribution function due to correlation.

    The correlation r is given as arcsin r ∈ [−π/2, π/2] and through h_given_k = (h − r k)/o and
    k_given_h = (k − r h)/o, o = √(1 − r²), which a caller can compute without cancellation.

    For |r| < 0.75 this is Plackett's integral ∫₀^{arcsin r} exp(−(h² + k² − 2hk sin ψ)/(2 cos² ψ))
    dψ/2π, exact also where it is tiny. For larger |r| it is Owen's T function (Genz 2004 treats the
    same region in another way). Derivatives are exact: ∂Φ2/∂h = φ(h) Φ(k_given_h), ∂Φ2/∂r = φ2.
    """
    weak = jnp.abs(jnp.sin(arcsin_r)) < _PLACKETT_LIMIT

    psi = _outer(jnp.where(weak, arcsin_r, 0.0), _NODES)
    sin, cos2 = jnp.sin(psi), jnp.square(jnp.cos(psi))
    h_, k_ = h[..., None], k[..., None]
    # (h² + k² − 2 h k sin ψ) without cancellation
    exponent = jnp.square(h_ - k_ * sin) / cos2 + jnp.square(k_)
    plackett = arcsin_r * (jnp.exp(-0.5 * exponent) @ _WEIGHTS) / (2.0 * np.pi)

    def signed_t(x: Real, y: Real) -> Real:  # T(x, y/x), where x = 0 means 0⁺
        return _sign(x) * jnp.sign(y) * _owens_t(jnp.abs(x), jnp.abs(y))

    by_t = (
        0.5 * (ndtr(h) * ndtr(-k) + ndtr(k) * ndtr(-h))
        - signed_t(h, k_given_h)
        - signed_t(k, h_given_k)
        - jnp.where(_sign(h) == _sign(k), 0.0, 0.5)
    )
    by_t = jnp.where((h == 0) & (k == 0), arcsin_r / (2.0 * np.pi), by_t)
    return jnp.where(weak, plackett, by_t)


def _sign(x: Real) -> Real:
    return jnp.where(x < 0, -1.0, 1.0)


@bvn_excess.defjvp
def _bvn_excess_jvp(primals, tangents):
    h, k, _, h_given_k, k_given_h = primals
    dh, dk, darcsin, _, _ = tangents  # the conditional arguments follow from h, k and r
    derivative = (
        normal_pdf(h) * (ndtr(k_given_h) - ndtr(k)) * dh
        + normal_pdf(k) * (ndtr(h_given_k) - ndtr(h)) * dk
        + normal_pdf(h) * normal_pdf(k_given_h) * darcsin
    )
    return bvn_excess(*primals), derivative


@in_float64
def bvn_cdf(h: ArrayLike, k: ArrayLike, r: ArrayLike) -> Float[Real, "..."]:
    """Return Φ2(h, k; r) = P(x ≤ h, y ≤ k), the bivariate normal distribution function.

    x and y are standard normal with correlation r. The result is accurate to a few 1e-16 for every
    r in [−1, 1]. Derivatives are finite: infinite ones, at r = ±1, are replaced by 0.

    Args:
        h: Upper limit of x.
        k: Upper limit of y.
        r: Correlation. All three arguments are broadcast to one shape.

    Returns:
        The probability, of the broadcast shape; NaN where r lies outside [−1, 1].

    Raises:
        ValueError: If an argument holds no real numbers, or shapes don't broadcast.

    Source: Owen (1956) and Plackett's identity; docs/theory.md 3.

    Example:
        >>> float(odeae.bvn_cdf(0.0, 0.0, 0.5).round(6))  # 1/4 + arcsin(r)/2π
        0.333333
    """
    x, y, corr = broadcast(h=numbers("h", h), k=numbers("k", k), r=numbers("r", r))
    x, y = jnp.clip(x, -_FAR, _FAR), jnp.clip(y, -_FAR, _FAR)  # ±∞ without ∞ − ∞
    o = safe_sqrt((1.0 - corr) * (1.0 + corr))
    excess = bvn_excess(
        x,
        y,
        0.5 * np.pi - angle(o, corr),
        safe_ratio(det2(x, y, corr, 1.0), o),
        safe_ratio(det2(y, x, corr, 1.0), o),
    )
    return jnp.where(jnp.abs(corr) <= 1.0, ndtr(x) * ndtr(y) + excess, jnp.nan)
