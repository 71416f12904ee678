"""The integrals of the paper's Appendix D."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.averages.activation import AbstractActivation
from odeae.averages.by_name import as_activation
from odeae.averages.values import Averages
from odeae.base.checks import array
from odeae.base.checks import covariance as check_covariance
from odeae.base.precision import ArrayLike, Real, in_float64


def _pair(activation: AbstractActivation | str, C: Real, i: int, j: int) -> Averages:
    """Return the averages of the pair (x_i, x_j) of a covariance C, as of two neurons."""
    indices = np.array([i, j])
    return as_activation(activation).averages(C[indices[:, None], indices])


def _covariance(C: ArrayLike, n: int) -> Real:
    return jnp.asarray(check_covariance("C", array("C", C, (n, n))))


@in_float64
def J2(activation: AbstractActivation | str, C: ArrayLike) -> Float[Real, ""]:
    """Return J2 = ⟨x1 g(x2)⟩ of two Gaussian variables.

    Args:
        activation: The activation g, or its name such as "erf".
        C: Covariance of (x1, x2), of shape (2, 2).

    Returns:
        C12 c(C22), a scalar.

    Raises:
        ValueError: If `C` is no covariance of this shape, or `activation` is unknown.

    Source: the paper (arXiv:2201.02115), Appendix D; docs/theory.md 3.

    Example:
        >>> float(odeae.J2("linear", [[1.0, 0.5], [0.5, 2.0]]).round(6))
        0.5
    """
    cov = _covariance(C, 2)
    return cov[0, 1] * _pair(activation, cov, 0, 1).c[1]


@in_float64
def I2(activation: AbstractActivation | str, C: ArrayLike) -> Float[Real, ""]:
    """Return I2 = ⟨g(x1) g(x2)⟩ of two Gaussian variables.

    Args:
        activation: The activation g, or its name such as "erf".
        C: Covariance of (x1, x2), of shape (2, 2).

    Returns:
        G(C), a scalar.

    Raises:
        ValueError: If `C` is no covariance of this shape, or `activation` is unknown.

    Source: the paper (arXiv:2201.02115), Appendix D; docs/theory.md 3.

    Example:
        >>> float(odeae.I2("linear", [[1.0, 0.5], [0.5, 2.0]]).round(6))
        0.5
    """
    return _pair(activation, _covariance(C, 2), 0, 1).G[0, 1]


@in_float64
def I21(activation: AbstractActivation | str, C: ArrayLike) -> Float[Real, ""]:
    """Return I21 = ⟨g'(x1) x1 x2⟩ of two Gaussian variables.

    Args:
        activation: The activation g, or its name such as "erf".
        C: Covariance of (x1, x2), of shape (2, 2).

    Returns:
        C12 (c + 2 C11 c_q), with c and c_q at the variance C11, a scalar.

    Raises:
        ValueError: If `C` is no covariance of this shape, or `activation` is unknown.

    Source: the paper (arXiv:2201.02115), Appendix D; docs/theory.md 3.

    Example:
        >>> float(odeae.I21("linear", [[1.0, 0.5], [0.5, 2.0]]).round(6))
        0.5
    """
    cov = _covariance(C, 2)
    a = _pair(activation, cov, 0, 1)
    return cov[0, 1] * (a.c[0] + 2.0 * cov[0, 0] * a.c_q[0])


@in_float64
def I22(activation: AbstractActivation | str, C: ArrayLike) -> Float[Real, ""]:
    """Return I22 = ⟨g'(x1) x2²⟩ of two Gaussian variables.

    Args:
        activation: The activation g, or its name such as "erf".
        C: Covariance of (x1, x2), of shape (2, 2).

    Returns:
        C22 c + 2 C12² c_q, with c and c_q at the variance C11, a scalar.

    Raises:
        ValueError: If `C` is no covariance of this shape, or `activation` is unknown.

    Source: the paper (arXiv:2201.02115), Appendix D; docs/theory.md 3.

    Example:
        >>> float(odeae.I22("linear", [[1.0, 0.5], [0.5, 2.0]]).round(6))
        2.0
    """
    cov = _covariance(C, 2)
    a = _pair(activation, cov, 0, 1)
    return cov[1, 1] * a.c[0] + 2.0 * cov[0, 1] ** 2 * a.c_q[0]


@in_float64
def I3(activation: AbstractActivation | str, C: ArrayLike) -> Float[Real, ""]:
    """Return I3 = ⟨g'(x1) x2 g(x3)⟩ of three Gaussian variables.

    Args:
        activation: The activation g, or its name such as "erf".
        C: Covariance of (x1, x2, x3), of shape (3, 3).

    Returns:
        C12 S(1, 3) + C23 P(1, 3), a scalar.

    Raises:
        ValueError: If `C` is no covariance of this shape, or `activation` is unknown.

    Source: the paper (arXiv:2201.02115), Appendix D; docs/theory.md 3.

    Example:
        >>> float(odeae.I3("linear", np.eye(3) + 0.5).round(6))
        0.5
    """
    cov = _covariance(C, 3)
    a = _pair(activation, cov, 0, 2)
    return cov[0, 1] * a.S[0, 1] + cov[1, 2] * a.P[0, 1]
