"""The integrals of the paper's appendix D."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation
from odeae.averages.by_name import as_activation
from odeae.base.checks import array
from odeae.base.checks import covariance as check_covariance
from odeae.base.precision import Real, in_float64


def _pair(activation, C, i, j):
    """Averages of the pair (x_i, x_j) of a covariance C, as a problem of two neurons."""
    indices = np.array([i, j])
    return as_activation(activation).averages(C[indices[:, None], indices])


def _covariance(C, n):
    return jnp.asarray(check_covariance("C", array("C", C, (n, n))))


@in_float64
def J2(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """J2 = ⟨x1 g(x2)⟩ = C12 c(C22), with C the covariance of (x1, x2) (paper, App. D)."""
    C = _covariance(C, 2)
    return C[0, 1] * _pair(activation, C, 0, 1).c[1]


@in_float64
def I2(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """I2 = ⟨g(x1) g(x2)⟩ = G, with C the covariance of (x1, x2) (paper, App. D)."""
    return _pair(activation, _covariance(C, 2), 0, 1).G[0, 1]


@in_float64
def I21(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """I21 = ⟨g'(x1) x1 x2⟩ = C12 (c + 2 C11 c_q), C the covariance of (x1, x2) (paper, App. D)."""
    C = _covariance(C, 2)
    a = _pair(activation, C, 0, 1)
    return C[0, 1] * (a.c[0] + 2.0 * C[0, 0] * a.c_q[0])


@in_float64
def I22(activation: AbstractActivation, C: Float[Real, "2 2"]):
    """I22 = ⟨g'(x1) x2²⟩ = C22 c + 2 C12² c_q, C the covariance of (x1, x2) (paper, App. D)."""
    C = _covariance(C, 2)
    a = _pair(activation, C, 0, 1)
    return C[1, 1] * a.c[0] + 2.0 * C[0, 1] ** 2 * a.c_q[0]


@in_float64
def I3(activation: AbstractActivation, C: Float[Real, "3 3"]):
    """I3 = ⟨g'(x1) x2 g(x3)⟩ = C12 S(1,3) + C23 P(1,3), C that of (x1, x2, x3) (paper, App. D)."""
    C = _covariance(C, 3)
    a = _pair(activation, C, 0, 2)
    return C[0, 1] * a.S[0, 1] + C[1, 2] * a.P[0, 1]
