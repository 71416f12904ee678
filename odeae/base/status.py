"""How a solve ended."""

import enum


class Status(enum.IntEnum):
    """How a solve ended; the curve is NaN after `stop_time` unless OK."""

    OK = 0
    DIVERGED = 1
    BUDGET = 2
    UNRESOLVED = 3
    REGROWN = 4

    def message(self, stop_time: float) -> str:
        """One line for people, with the remedy."""
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
