"""What XLA on a CPU must be told so that small problems run at the speed of their arithmetic."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.flatten_util import ravel_pytree

from odeae.base.precision import Real


def computed_once(function: Callable[[], Any], witness: Real) -> Any:
    """Return function(), for lanes such that the compiler computes it once.

    XLA computes elementwise values again for each of their users, here for each neuron of each
    mode, unless they come out of a conditional. `witness`: any array of the lanes.
    """
    if witness.ndim < 2:
        return function()

    def through(witness):
        always = 0.0 * witness.ravel()[0] != 1.0  # also for NaN; no compiler may know that
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function))
        return jax.lax.cond(always, function, lambda: zeros)

    return jax.lax.platform_dependent(witness, cpu=through, default=lambda _: function())


def loop_as_one_kernel(going_on: Callable, body: Callable, fixed: Any, carry: Any) -> Any:
    """While going_on(carry): carry = body(fixed, carry), on a CPU as one piece of machine code.

    XLA makes every operation of a loop a kernel of its own; to start one takes 50 ns and more,
    most of the time where arrays hold a few numbers. It has a mark for calls that are to become a
    single kernel, which it gives to tiny loops by itself. Without the mark all is the same, but
    five times slower.
    """

    def loop(fixed, carry):
        return jax.lax.while_loop(going_on, lambda carry: body(fixed, carry), carry)

    if jax.default_backend() != "cpu":
        return loop(fixed, carry)
    # All in one array: of an argument that turns out to be unused XLA's emitter would die.
    numbers, restore = ravel_pytree((fixed, carry))

    def unmarked(numbers):
        with set_xla_metadata(**dict.fromkeys(_MARK)):
            return loop(*restore(numbers))

    with set_xla_metadata(**_MARK):
        return jax.jit(unmarked)(numbers)


@functools.cache
def with_whole_vectors(function: Callable) -> Callable:
    """`eqx.filter_jit` of a function, with whole vectors where a CPU has AVX-512.

    By default XLA takes halves of them, 4 % slower for lanes. Options of XLA come and go with its
    versions, and one that it doesn't know is an error; then it's left out.
    """
    try:
        jax.jit(lambda: 0.0, compiler_options=_WHOLE).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return eqx.filter_jit(function)
    # Equinox hands further arguments to `jax.jit`; its annotations leave them out.
    return eqx.filter_jit(function, compiler_options=_WHOLE)  # pyright: ignore[reportCallIssue]


_WHOLE = {"xla_cpu_prefer_vector_width": 512}
_MARK = {"xla_cpu_small_call": "true", "inlineable": "false"}
