"""Hints to XLA on a CPU, so that small problems run at the speed of their arithmetic."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.flatten_util import ravel_pytree

from odeae.base.precision import Real

T = TypeVar("T")


def computed_once(function: Callable[[], T], witness: Real) -> T:
    """Return function(); for lanes, make the compiler compute it once.

    XLA computes elementwise values again wherever they are used, here for each neuron of each
    mode, unless they come out of a conditional. `witness` is any array of the lanes.
    """
    if witness.ndim < 2:
        return function()

    def through(witness):
        always = 0.0 * witness.ravel()[0] != 1.0  # true also for NaN; no compiler can see that
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function))
        return jax.lax.cond(always, function, lambda: zeros)

    return jax.lax.platform_dependent(witness, cpu=through, default=lambda _: function())


def loop_as_one_kernel(
    going_on: Callable[[T], Any], body: Callable[[Any, T], T], fixed: Any, carry: T
) -> T:
    """Repeat carry = body(fixed, carry) while going_on(carry), on a CPU as one piece of code.

    XLA makes a kernel of every operation of a loop. To start a kernel takes 50 ns or more, which
    is most of the time where arrays hold a few numbers. XLA has a mark for calls that become a
    single kernel, and marks tiny loops by itself. Without the mark the result is the same, but
    takes five times as long.
    """

    def loop(fixed, carry):
        return jax.lax.while_loop(going_on, lambda carry: body(fixed, carry), carry)

    if jax.default_backend() != "cpu":
        return loop(fixed, carry)
    # All in one array, because XLA's emitter crashes at an argument that turns out to be unused.
    numbers, restore = ravel_pytree((fixed, carry))

    def unmarked(numbers):
        with set_xla_metadata(**dict.fromkeys(_MARK)):
            return loop(*restore(numbers))

    with set_xla_metadata(**_MARK):
        return jax.jit(unmarked)(numbers)


@functools.cache
def with_whole_vectors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `eqx.filter_jit` of a function, with whole vectors where a CPU has AVX-512.

    By default XLA uses half vectors, which is 4 % slower for lanes. Options of XLA come and go with
    its versions, and an unknown option is an error; in this case the option is left out.
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
