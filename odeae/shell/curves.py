"""`odeae predict`, `simulate`, `compare`."""

import sys
from pathlib import Path
from typing import Any

from odeae.base.messages import one_of
from odeae.base.progress import saying_how_long
from odeae.shell import builders
from odeae.shell import settings as config
from odeae.shell.app import as_command, start_jax
from odeae.shell.output import (
    check_outputs,
    check_runs,
    print_json,
    print_table,
    progress_bar,
    some_rows,
    summary,
    write_outputs,
)


def _predict(values: dict[str, Any], problem: Any, times: Any) -> Any:
    from odeae.theory.ensemble import ensemble
    from odeae.theory.predict import predict

    options = {name: values[name] for name in ("rtol", "atol", "max_steps", "diffusion")}
    members = values.get("members")
    # A bar of `predict` would cost a compilation on every run, and the fast path.
    with saying_how_long("predicting"):
        if members is not None:
            return ensemble(problem, times, members, **builders.start(values), **options)
        return predict(problem, builders.build_state(values, problem), times, **options)


def _simulate(
    values: dict[str, Any], problem: Any, times: Any, weights: Any = None, **options: Any
) -> Any:
    from odeae.data.inputs import read_array
    from odeae.simulation.sgd import simulate

    data = state = None
    if one_of("inputs", values["inputs"], ["gaussian", "data"]) == "data":
        if values["data"] is None:
            raise ValueError("--inputs data needs --data FILE")
        data = read_array(values["data"])
    if weights is None:
        state = builders.build_state(values, problem)
    return simulate(
        problem,
        state,
        times,
        runs=values["runs"],
        seed=values["seed"],
        data=data,
        weights=weights,
        resample=False if values["once"] else None,
        test_samples=values["test_samples"],
        progress=progress_bar(),
        **options,
    )


def _load_runs(path: str) -> Any:
    """The runs to be resumed, from a file of `simulate` or `compare`."""
    from odeae.results.saving import groups, load

    runs = load(path, "runs" if "runs" in groups(path) else None)
    if runs.weights is None:
        raise ValueError(f"{path!r} holds no runs to resume")
    return runs


def denser(times: Any) -> Any:
    """The times of the runs and more between them, for a smooth curve."""
    import numpy as np

    between = times[1:-1, None] * (times[2:] / times[1:-1])[:, None] ** np.linspace(0, 1, 6)[1:-1]
    return np.unique(np.concatenate([times, between.ravel()]))


@as_command(config.COMMON, config.SOLVE, config.ENSEMBLE, config.OUTPUT)
def predict(values: dict[str, Any], as_json: bool) -> None:
    """Predict the learning curve from a spectrum: the theory alone."""
    import numpy as np

    check_outputs(values)
    start_jax()
    from odeae.base.status import Status

    problem = builders.build_problem(values)
    theory = _predict(values, problem, builders.build_times(values, 200))
    if as_json:
        print_json(summary(theory))
    else:
        print(theory)
        rows = some_rows(theory.times)
        columns = {"t = steps/D": [f"{theory.times[i]:.4g}" for i in rows]}
        if values["members"] is None:
            columns["error"] = [f"{theory.error[i]:.6f}" for i in rows]
            if values["noise"] > 0:
                clean = theory.error_clean
                columns["on clean inputs"] = [f"{clean[i]:.6f}" for i in rows]
            columns["above PCA"] = [f"{theory.excess[i]:.4g}" for i in rows]
        else:
            good = theory.error[theory.status == 0]
            if len(good) == 0:
                message = Status(int(theory.status[0])).message(float(theory.stop_time[0]))
                raise RuntimeError(f"no member finished; the first {message}")
            low, high = np.quantile(good, [0.1, 0.9], axis=0)
            mean = good.mean(axis=0)
            columns["mean error"] = [f"{mean[i]:.6f}" for i in rows]
            columns["10 %"] = [f"{low[i]:.6f}" for i in rows]
            columns["90 %"] = [f"{high[i]:.6f}" for i in rows]
        print_table(columns)
    write_outputs(values, {None: theory}, as_json)


@as_command(config.COMMON, config.RUNS, config.OUTPUT)
def simulate(values: dict[str, Any], as_json: bool) -> None:
    """Run online SGD at finite D, on Gaussian inputs or on the rows of a data file."""
    check_outputs(values)
    start_jax()
    problem = builders.build_problem(values)
    times = builders.build_times(values, 30, problem.spectrum.dim)
    weights = None
    if values["resume"] is not None:
        saved = _load_runs(values["resume"])
        weights, done = saved.weights, float(saved.times[-1])
        if times[-1] <= done:
            raise ValueError(f"the saved runs already stand at t={done:g}; give a later --end")
        if values["start"] is not None:
            raise ValueError("--start has no meaning beside --resume; give --times")
        if values["times"] is None:
            from odeae.base.times import log_times

            dim = problem.spectrum.dim
            count = 30 if values["count"] is None else values["count"]
            times = done + log_times(times[-1] - done, count, dim=dim)
        times = times[times >= done]
    runs, values = _simulate_and_keep(values, problem, times, weights)
    if as_json:
        print_json(summary(runs))
    else:
        print(runs)
        rows = some_rows(runs.times)
        mean, test = runs.error.mean(axis=0), runs.test_error.mean(axis=0)
        print_table(
            {
                "t = steps/D": [f"{runs.times[i]:.4g}" for i in rows],
                "error": [f"{mean[i]:.6f}" for i in rows],
                "test error": [f"{test[i]:.6f}" for i in rows],
            },
        )
    write_outputs(values, {None: runs}, as_json)


def _simulate_and_keep(
    values: dict[str, Any], problem: Any, times: Any, weights: Any = None
) -> Any:
    """The runs, which an interrupt leaves in the output, and the settings to go on with."""
    output = values["output"]
    if output is None or Path(output).suffix.lower() != ".nc":  # a table can't be resumed
        return _simulate(values, problem, times, weights), values
    keep = {"checkpoint": output, "overwrite": values["overwrite"]}
    try:
        runs = _simulate(values, problem, times, weights, **keep)
    except KeyboardInterrupt as stop:
        if not getattr(stop, "__notes__", ()):  # nothing was begun
            raise
        line = (
            f"the runs so far are kept in {output!r}: go on with odeae simulate --resume {output}"
        )
        print(f"odeae: interrupted, {line}", file=sys.stderr)
        raise SystemExit(130) from None
    return runs, values | {"overwrite": True}  # of the file that the runs have kept


@as_command(config.COMMON, config.SOLVE, config.RUNS, config.OUTPUT)
def compare(values: dict[str, Any], as_json: bool) -> None:
    """Theory and simulation from one start, and how far they are apart."""
    check_outputs(values)
    if values["resume"] is not None:
        raise ValueError("--resume is for `odeae simulate`: a comparison needs the common start")
    check_runs(values["runs"])
    start_jax()
    from odeae.analysis.compare import compare as compare_

    problem = builders.build_problem(values)
    times = builders.build_times(values, 30, problem.spectrum.dim)
    theory = _predict(values, problem, denser(times))
    runs, values = _simulate_and_keep(values, problem, times)
    write_outputs(values, {"theory": theory, "runs": runs}, as_json)
    check = compare_(theory, runs)
    if as_json:
        print_json(
            {
                "verdict": check.verdict,
                "agrees": check.agrees,
                "on": check.on,
                "runs": check.runs,
                "threshold": check.threshold,
                "allowance": check.allowance,
                "largest_deviation": check.largest,
                "relative": check.relative,
                "average_deviation": check.average,
                "average_standard_error": check.average_error,
                "times": check.times,
                "theory": check.theory,
                "mean": check.mean,
                "standard_error": check.standard_error,
                "z": check.z,
                "pca_errors": theory.pca_levels(),
            }
        )
    else:
        rows = some_rows(check.times)
        print_table(
            {
                "t = steps/D": [f"{check.times[i]:.4g}" for i in rows],
                "theory": [f"{check.theory[i]:.6f}" for i in rows],
                "runs": [f"{check.mean[i]:.6f}" for i in rows],
                "± s.e.": [f"{check.standard_error[i]:.6f}" for i in rows],
                "z": [f"{check.z[i]:+.2f}" for i in rows],
            },
        )
        print(check)
