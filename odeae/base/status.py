"""How a solve ended."""

import enum


class Status(enum.IntEnum):
    """How a solve ended: OK, or the reason why it stopped early.

    A curve that stopped early is NaN after its `stop_time`. A `Trajectory` holds the number of its
    status, or an array of numbers where it has runs, members or lanes. In the dataset of a sweep,
    −1 marks a lane that is not computed yet.

    Attributes:
        OK: 0. The solve reached the last time.
        DIVERGED: 1. Weights grew beyond 1e50, or their rates of change are no numbers.
        BUDGET: 2. The solve needed more steps than `max_steps`.
        UNRESOLVED: 3. A field variance left the range that a `Quadrature` resolves.
        REGROWN: 4. A mode that had decayed below the numbers of double precision would grow again.

    Example:
        >>> odeae.Status(int(theory.status)).name
        'OK'
    """

    OK = 0
    DIVERGED = 1
    BUDGET = 2
    UNRESOLVED = 3
    REGROWN = 4

    def message(self, stop_time: float) -> str:
        """Return one line for people: how and when the solve ended, and the remedy.

        Args:
            stop_time: The time, in steps/D, that the solve reached.

        Returns:
            The text, "ok" for OK.
        """
        if self is Status.OK:
            return "ok"
        cause = {
            Status.DIVERGED: "diverged; weights grew beyond 1e50, or their rates of change are no "
            "numbers: check the rates and the initial state",
            Status.BUDGET: "spent its step budget; give a larger `max_steps` or a looser `rtol`, "
            "or, under jit, vmap or grad, solver=odeae.Rodas4() for long times",
            Status.UNRESOLVED: "left the range of field variances that the Quadrature resolves; "
            "construct it with a larger `q_max`",
            Status.REGROWN: "a mode that had decayed below the smallest number of double precision "
            "would grow again; end before, or start from smaller weights",
        }[self]
        return f"stopped at t={stop_time:.4g}: {cause}"
