"""Linear systems of an implicit step, mode by mode: what makes long times of many modes affordable.

A mode feels the others through sums over all modes alone, the mean field, and in a given mean field
the drift is linear in its row (docs/theory.md 4). So the Jacobian has a block for each mode and,
beside these, the rank of the mean field: N systems of width m and one of the mean field's size take
the place of one of N m unknowns (docs/theory.md 8).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.layout import columns_of, rows_of
from odeae.model.rule import MeanField, mean_field
from odeae.model.state import State, overlaps
from odeae.theory.equations import Equations
from odeae.theory.rosenbrock import whole_matrix

# Up to so many numbers the whole matrix is as fast, and its program compiles sooner.
FEW_NUMBERS = 64
# Above these sizes the matrices of an implicit step cost more than its length is worth.
WHOLE_NUMBERS = 600
FIELD_NUMBERS, BORDER_NUMBERS = 320, 2**24


def resolvent_of(equations: Equations) -> Callable:
    """How `Rodas4` had best solve the systems of its steps for these equations."""
    numbers, field = _sizes(equations)
    few = numbers <= max(FEW_NUMBERS, field)
    return whole_matrix if equations.diffusion or few else by_modes


def implicit_steps_pay(equations: Equations) -> bool:
    """Whether the systems of an implicit step are small enough to be worth its length."""
    numbers, field = _sizes(equations)
    if resolvent_of(equations) is whole_matrix:
        return numbers <= WHOLE_NUMBERS
    return field <= FIELD_NUMBERS and numbers * field <= BORDER_NUMBERS


def _sizes(equations: Equations) -> tuple[int, int]:
    """How many numbers the rows have, and the mean field."""
    return equations.layout.numbers, _field_numbers(equations.network)


def _field_numbers(network: Autoencoder) -> int:
    """Size of the mean field without repetitions: Q1, T0 and the diagonal of R1, T0_k0."""
    K = network.hidden
    return K * (K + 1) + K + K * network.output_bias


def by_modes(vf: Any, t: Any, y: Real, equations: Equations, shift: Any) -> Callable:
    """Return the map r ↦ (shift − J)⁻¹ r, J the Jacobian of the drift at packed rows y.

    With x_i the columns of mode i, s the mean field and hidden biases, B_i = ∂f_i/∂x_i, U = ∂f/∂s
    and V = ∂s/∂x: the modes are δx_i = (shift − B_i)⁻¹ (r_i + U_i δs), and what remains is a system
    for δs. `vf` must be `vector_field` of these equations, without diffusion: its parts are taken
    from where it takes them.
    """
    network, inputs, rule = equations.network, equations.inputs, equations.rule
    layout, factor = equations.layout, rule.factor(t)
    state = layout.unpack(y)
    K, m, rho = network.hidden, network.width, inputs.rho
    N, p = rho.shape[0], _field_numbers(network)
    q = p + K * network.bias
    pairs = np.triu_indices(K)
    count = len(pairs[0])
    place = np.zeros((K, K), int)
    place[pairs] = place.T[pairs] = np.arange(count)

    def sums(x):
        """The mean field as a vector."""
        rows = rows_of(network, x)
        field = mean_field(rows, rho, overlaps(rows, rho, inputs))
        parts = [field.Q1[pairs], field.T0[pairs], field.R]
        return jnp.concatenate(parts if field.output is None else [*parts, field.output])

    def motion(x, s):
        """d(columns)/dt and d(bias)/dt, s the mean field and biases."""
        Q1, T0, R, output, bias = jnp.split(s, [count, 2 * count, 2 * count + K, p])
        field = MeanField(Q1[place], T0[place], R, output if network.output_bias else None)
        moved, db, _ = rule.motion(network, inputs, rows_of(network, x), bias, field, factor)
        return columns_of(network, moved), db

    x = columns_of(network, state.rows)
    s = jnp.concatenate([sums(x), state.bias])

    def along(column):  # of all modes at once, as in a given mean field none feels another
        direction = jnp.broadcast_to(column, x.shape)
        return jax.jvp(lambda x: motion(x, s)[0], (x,), (direction,))[1]

    def by_field(direction):
        return jax.jvp(lambda s: motion(x, s), (s,), (direction,))[1]

    B = jnp.moveaxis(jax.vmap(along)(jnp.eye(m)), 0, -1)  # (N, m, m)
    U, U_bias = jax.vmap(by_field)(jnp.eye(q, p + K))  # (q, N, m) and (q, K)
    V = jax.vmap(jax.vjp(sums, x)[1])(jnp.eye(p))[0]  # (p, N, m)
    # Small matrices on a CPU: products with inverses take a third of the time of substitution.
    inverse = jnp.linalg.inv(shift * jnp.eye(m)[None] - B)
    Z = inverse @ jnp.moveaxis(U, 0, -1)  # (N, m, q)
    matrix = jnp.eye(p, q) - V.reshape(p, N * m) @ Z.reshape(N * m, q)
    if network.bias:
        matrix = jnp.concatenate([matrix, shift * jnp.eye(K, q, p) - U_bias.T])
    factors = jax.scipy.linalg.lu_factor(matrix)

    def solve(r):
        given = layout.unpack(r)
        z = (inverse @ columns_of(network, given.rows)[..., None])[..., 0]
        right = jax.jvp(sums, (x,), (z,))[1]
        if network.bias:
            right = jnp.concatenate([right, given.bias])
        ds = jax.scipy.linalg.lu_solve(factors, right)
        bias = ds[p:] if network.bias else given.bias
        rows = rows_of(network, z + Z @ ds)
        return layout.pack(State(rows=rows, n_spikes=state.n_spikes, bias=bias))

    return solve
