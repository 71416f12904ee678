"""A trajectory in words."""

from typing import Any

import numpy as np

from odeae.base.messages import counted
from odeae.base.precision import is_known
from odeae.base.status import Status
from odeae.model.descriptions import describe_network, describe_rule


def described(trajectory: Any) -> tuple[str, list[tuple[str, str]]]:
    """What it is, and rows of what a reader asks first."""
    problem = trajectory.problem
    network, dim = problem.autoencoder, problem.spectrum.dim
    title = f"{trajectory.source}, {describe_network(network)}, {describe_rule(problem)}, D={dim}"
    if not is_known(trajectory):
        return f"{title}, traced", []
    error, batch = np.asarray(trajectory.error), trajectory.error.shape[:-1]
    times = None if trajectory.own_times else trajectory.shared_times()
    length = error.shape[-1]
    many = "" if not batch else ", " + counted(int(np.prod(batch)), trajectory.batch_name)
    span = "each lane has its own"
    if times is not None:
        span = f"t = {times[0]:.4g}" + (f" … {times[-1]:.4g}" if length > 1 else "")
    rows = []
    codes, stops = np.ravel(trajectory.status), np.ravel(trajectory.stop_time)
    bad = np.flatnonzero(codes != Status.OK)
    if times is not None and not batch and np.isfinite(error[0]):
        last = int(np.sum(np.isfinite(error))) - 1
        until = "" if last == length - 1 else f" at t = {times[last]:.4g}, then it stopped"
        rows.append(("error", f"{error[0]:.6g} → {error[last]:.6g}{until}"))
    elif batch and len(bad) < len(codes):
        good = error.reshape(-1, length)[codes == Status.OK]
        first, final = good[:, 0], good[:, -1]
        spread = f" on average (from {np.min(final):.4g} to {np.max(final):.4g})"
        spread = "" if len(good) == 1 else spread
        rows.append(("error", f"{np.mean(first):.6g} → {np.mean(final):.6g}{spread}"))
    levels = trajectory.pca_levels()
    if levels is not None:
        pca = f"{levels[-1]:.6g} at rank {network.hidden}, {levels[0]:.6g} at rank 0"
        rows.append(("PCA", pca))
    status = "ok"
    if len(bad):
        which = "" if not batch else f"{len(bad)} of {len(codes)} failed, the first "
        status = which + Status(int(codes[bad[0]])).message(float(stops[bad[0]]))
    rows.append(("status", status))
    return f"{title}{many}, {counted(length, 'time')}, {span}", rows
