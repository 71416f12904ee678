"""The shell: `odeae predict | simulate | compare | sweep | plot | spectrum | validate | …`."""

import inspect
import itertools
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from odeae.base.files import existing_file
from odeae.base.messages import meant, one_of, shortened
from odeae.base.progress import at_terminal, saying_how_long
from odeae.shell import settings as config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learning curves of shallow non-linear autoencoders, exactly, from a covariance spectrum.",
    epilog="Try: [bold]odeae predict --spikes 1,0.6,0.3 --dim 1000 --hidden 3 --plot curve.png[/]",
)


_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which typer has made its own


class _Command(TyperCommand):
    """A command that refuses by name what click would drop, or take for a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {flag: o for o in self.params for flag in o.opts if flag.startswith("-")}
        for i, word in enumerate(args):
            if word in options and not getattr(options[word], "is_flag", True):
                stray = list(itertools.takewhile(_is_number, args[i + 2 :]))
                if stray and not Path(stray[0]).is_file():
                    text = ",".join(value.strip(",") for value in (args[i + 1], *stray))
                    several = options[word].metavar == "LIST" or options[word].multiple
                    one = f"{word} takes one value, got {shortened(text)}"
                    many = f"separate values by commas: {word} {text}"
                    raise _UsageError(many if several else one, ctx)
        try:
            order = self.make_parser(ctx).parse_args(list(args))[2]
        except _UsageError as error:
            unknown = getattr(error, "option_name", None)
            if unknown is None or unknown in options:  # one that lacks its value, for example
                raise
            known = [flag[2:].replace("-", "_") for flag in options if flag.startswith("--")]
            found = meant(unknown.lstrip("-").replace("-", "_"), known)
            flags = " or ".join("--" + name.replace("_", "-") for name in found)
            hint = f", did you mean {flags}?" if found else ""
            raise _UsageError(f"No such option: {unknown}{hint}", ctx) from None
        for flag, option in options.items():
            if not option.multiple and order.count(option) > 1:
                commas = ", with commas between its values" if option.metavar == "LIST" else ""
                times = order.count(option)
                raise _UsageError(f"{flag} is given {times} times: give it once{commas}", ctx)
        return super().parse_args(ctx, args)


def _is_number(text: str) -> bool:
    try:
        float(text.strip(","))
    except ValueError:
        return False
    return True


def _version(asked: bool | None) -> None:
    if asked:
        from odeae.base.version import __version__

        print(f"odeae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


Config = Annotated[
    str | None, typer.Argument(metavar="[CONFIG.toml]", help="Settings; flags override them.")
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, for scripts.", rich_help_panel="output"),
]


def _command(*tables: list[config.Setting]) -> Callable:
    """Register a command whose flags are the settings of `tables`: one list serves all.

    The function gets the merged values and whether JSON was asked for.
    """
    settings = [setting for table in tables for setting in table]

    def register(function: Callable[[dict[str, Any], bool], None]) -> Callable:
        def command(**given: Any) -> None:
            path, as_json = given.pop("config_file"), given.pop("as_json")
            function(config.read(path, settings, given), as_json)

        parameters: list[tuple[str, Any, Any]] = [("config_file", Config, None)]
        for s in settings:
            text = s.help if s.default in (None, False) else f"{s.help} [dim]\\[{s.default}][/]"
            flag = f"--{s.name}/--no-{s.name}" if s.type is bool else f"--{s.name}"
            names = (flag, "-o") if s.name == "output" else (flag,)
            option = typer.Option(
                *names,
                help=text,
                metavar=s.metavar or ("INTEGER" if s.type is int else None),
                parser=_whole if s.type is int else None,
                rich_help_panel=s.section,
                show_default=False,
            )
            kind = list[str] if s.type is dict else s.type
            parameters.append((s.key, Annotated[kind | None, option], None))
        parameters.append(("as_json", Json, False))
        command.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
            [
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
                )
                for name, kind, default in parameters
            ]
        )
        command.__annotations__ = {name: kind for name, kind, _ in parameters}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return app.command(name=function.__name__, cls=_Command)(command)

    return register


def _whole(text: str) -> int:
    """A whole number, also one such as 1e9."""
    try:
        return config.whole(text)
    except ValueError:
        text = f"{shortened(text)} is not a whole number, such as 1000 or 1e9"
        raise typer.BadParameter(text) from None


def _start_jax() -> None:
    """Switch on float64, and keep compiled programs on disk: a second run starts at once."""
    # Equinox's run-time errors are host callbacks, which keep a program out of the cache; odeae
    # reports failures as a status and needs none of them.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "odeae"
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache))
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _check_outputs(values: dict[str, Any], endings: tuple[str, ...] = (".nc", ".csv")) -> None:
    """Refuse outputs that can't be written before any work is done."""
    from odeae.base.files import check_ending, check_output

    given = {n: values.get(n) for n in ("output", "plot", "plot_overlaps", "store")}
    files = {name: path for name, path in given.items() if path is not None}
    for name, path in files.items():
        if name != "store":
            check_output(path, values["overwrite"])
        if name in ("plot", "plot_overlaps"):
            _check_picture(name, path)
        same = next(o for o in files if os.path.realpath(files[o]) == os.path.realpath(path))
        if same != name:
            raise ValueError(f"`{same}` and `{name}` are the same file, {path!r}")
    if "output" in files:
        check_ending(files["output"], endings)


def _folder(output: str, names: list[str], overwrite: bool) -> tuple[Path, list[Path]]:
    """The folder of the results and its files, if they can be written."""
    from odeae.base.files import check_output

    if not output.strip():
        raise ValueError("`output` must not be empty: give it a value or leave it out")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output {output!r} is a file, expected a folder")
    files = [folder / name for name in names]
    for path in files if folder.exists() else [folder]:
        check_output(path, overwrite)
    return folder, files


def _check_runs(runs: int | None) -> None:
    if runs is not None and runs < 2:
        raise ValueError(f"`runs` must be at least 2 for a standard error, got {runs}")


def _check_picture(name: str, path: str) -> None:
    kinds = (".png", ".pdf", ".svg", ".jpg")
    if Path(path).suffix.lower() not in kinds:
        raise ValueError(f"`{name}` must end in one of {', '.join(kinds)}, got {path!r}")


def _bar() -> bool:
    """Progress bars are for people at a terminal."""
    return at_terminal()


def _save_figure(axes: Any, path: str | Path, overwrite: bool) -> None:
    from odeae.base.files import writing

    with writing(path, overwrite) as temporary:
        axes.figure.savefig(temporary, dpi=160)
        import matplotlib.pyplot as plt

        plt.close(axes.figure)


def _table(columns: dict[str, list[str]], title: str | None = None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _some(times: Any, most: int = 9) -> list[int]:
    import numpy as np

    return np.unique(np.linspace(0, len(times) - 1, most).round().astype(int)).tolist()


def _outputs(values: dict[str, Any], trajectories: dict[str | None, Any], as_json: bool) -> None:
    """Write the files that were asked for, and say so."""
    from odeae.plotting.curves import plot
    from odeae.plotting.parameters import plot_overlaps
    from odeae.results.saving import save_all

    done = []
    if values["output"] is not None:
        save_all(values["output"], trajectories, values["overwrite"])
        done.append(values["output"])
    if values["plot"] is not None:
        _save_figure(plot(*trajectories.values()), values["plot"], values["overwrite"])
        done.append(values["plot"])
    if values["plot_overlaps"] is not None:
        axes = plot_overlaps(next(iter(trajectories.values())))
        _save_figure(axes[0, 0], values["plot_overlaps"], values["overwrite"])
        done.append(values["plot_overlaps"])
    if done and not as_json:
        print("wrote " + ", ".join(done))


def _dump(result: dict[str, Any]) -> None:
    import numpy as np

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        value = np.asarray(value).tolist() if hasattr(value, "shape") else value
        if isinstance(value, list):
            return plain(value)
        return None if isinstance(value, float) and not np.isfinite(value) else value

    print(json.dumps(plain(result), allow_nan=False))


def _summary(trajectory: Any) -> dict[str, Any]:
    import numpy as np

    from odeae.base.status import Status

    codes = np.asarray(trajectory.status)
    return {
        "source": trajectory.source,
        "times": trajectory.times,
        "error": trajectory.error,
        "excess": trajectory.excess,
        **({"error_clean": trajectory.error_clean} if np.any(trajectory.problem.noise) else {}),
        **({} if trajectory.test_error is None else {"test_error": trajectory.test_error}),
        "pca_errors": trajectory.pca_levels(),
        "status": np.vectorize(lambda code: Status(int(code)).name.lower())(codes),
        "stop_time": trajectory.stop_time,
    }


def _predict(values: dict[str, Any], problem: Any, times: Any) -> Any:
    from odeae.theory.ensemble import ensemble
    from odeae.theory.predict import predict

    options = {name: values[name] for name in ("rtol", "atol", "max_steps", "diffusion")}
    members = values.get("members")
    # A bar of `predict` would cost a compilation on every run, and the fast path.
    with saying_how_long("predicting"):
        if members is not None:
            return ensemble(problem, times, members, **config.start(values), **options)
        return predict(problem, config.build_state(values, problem), times, **options)


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
        state = config.build_state(values, problem)
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
        progress=_bar(),
        **options,
    )


def _load_runs(path: str) -> Any:
    """The runs to be resumed, from a file of `simulate` or `compare`."""
    from odeae.results.saving import groups, load

    runs = load(path, "runs" if "runs" in groups(path) else None)
    if runs.weights is None:
        raise ValueError(f"{path!r} holds no runs to resume")
    return runs


def _denser(times: Any) -> Any:
    """The times of the runs and more between them, for a smooth curve."""
    import numpy as np

    between = times[1:-1, None] * (times[2:] / times[1:-1])[:, None] ** np.linspace(0, 1, 6)[1:-1]
    return np.unique(np.concatenate([times, between.ravel()]))


@_command(config.COMMON, config.SOLVE, config.ENSEMBLE, config.OUTPUT)
def predict(values: dict[str, Any], as_json: bool) -> None:
    """Predict the learning curve from a spectrum: the theory alone."""
    import numpy as np

    _check_outputs(values)
    _start_jax()
    from odeae.base.status import Status

    problem = config.build_problem(values)
    theory = _predict(values, problem, config.build_times(values, 200))
    if as_json:
        _dump(_summary(theory))
    else:
        print(theory)
        rows = _some(theory.times)
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
        _table(columns)
    _outputs(values, {None: theory}, as_json)


@_command(config.COMMON, config.RUNS, config.OUTPUT)
def simulate(values: dict[str, Any], as_json: bool) -> None:
    """Run online SGD at finite D, on Gaussian inputs or on the rows of a data file."""
    _check_outputs(values)
    _start_jax()
    problem = config.build_problem(values)
    times = config.build_times(values, 30, problem.spectrum.dim)
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
        _dump(_summary(runs))
    else:
        print(runs)
        rows = _some(runs.times)
        mean, test = runs.error.mean(axis=0), runs.test_error.mean(axis=0)
        _table(
            {
                "t = steps/D": [f"{runs.times[i]:.4g}" for i in rows],
                "error": [f"{mean[i]:.6f}" for i in rows],
                "test error": [f"{test[i]:.6f}" for i in rows],
            },
        )
    _outputs(values, {None: runs}, as_json)


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


@_command(config.COMMON, config.SOLVE, config.RUNS, config.OUTPUT)
def compare(values: dict[str, Any], as_json: bool) -> None:
    """Theory and simulation from one start, and how far they are apart."""
    _check_outputs(values)
    if values["resume"] is not None:
        raise ValueError("--resume is for `odeae simulate`: a comparison needs the common start")
    _check_runs(values["runs"])
    _start_jax()
    from odeae.analysis.compare import compare as compare_

    problem = config.build_problem(values)
    times = config.build_times(values, 30, problem.spectrum.dim)
    theory = _predict(values, problem, _denser(times))
    runs, values = _simulate_and_keep(values, problem, times)
    _outputs(values, {"theory": theory, "runs": runs}, as_json)
    check = compare_(theory, runs)
    if as_json:
        _dump(
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
        rows = _some(check.times)
        _table(
            {
                "t = steps/D": [f"{check.times[i]:.4g}" for i in rows],
                "theory": [f"{check.theory[i]:.6f}" for i in rows],
                "runs": [f"{check.mean[i]:.6f}" for i in rows],
                "± s.e.": [f"{check.standard_error[i]:.6f}" for i in rows],
                "z": [f"{check.z[i]:+.2f}" for i in rows],
            },
        )
        print(check)


@_command(config.COMMON, config.SOLVE, config.SWEEP, config.SWEEP_OUTPUT)
def sweep(values: dict[str, Any], as_json: bool) -> None:
    """Predict a curve for every point of a grid of settings, and keep them as they come.

    With --store, an interrupted sweep loses nothing that was done: the same command goes on.
    """
    _check_outputs(values, (".nc",))
    if values["diffusion"]:
        raise ValueError("`diffusion` is for `odeae predict`: a sweep has no noise of SGD's steps")
    grid = config.build_grid(values)
    _start_jax()
    from odeae.sweeps.sweep import sweep as sweep_

    store, save = values["store"], values["save"]
    options = {name: values[name] for name in ("zip", "rtol", "atol", "max_steps", "chunk")}
    options["save"] = save.replace(",", " ").split() if isinstance(save, str) else save or ()
    options["progress"] = _bar() if values["progress"] is None else values["progress"]
    build, times = config.Build.of(values, grid), config.build_times(values, 200)
    before, pool = _stored_curves(store), config.build_pool(values)
    try:
        curves = sweep_(build, grid, times, store=store, executor=pool, **options)
    except KeyboardInterrupt:
        if store is None:
            raise
        line = f"{_stored_curves(store)} completed curves are kept in {store!r}"
        print(f"odeae: interrupted, {line}: run the same command to go on", file=sys.stderr)
        raise SystemExit(130) from None
    done = []
    if values["output"] is not None:
        from odeae.base.files import writing

        with writing(values["output"], values["overwrite"]) as temporary:
            _in_pieces(curves).to_netcdf(temporary, engine="h5netcdf")
        done.append(values["output"])
    about = _about_sweep(curves, grid)
    if values["plot"] is not None and about["best"] is not None:
        from odeae.plotting.sweeps import plot_sweep

        axes = plot_sweep(curves, **_what_to_plot(curves))
        _save_figure(axes, values["plot"], values["overwrite"])
        done.append(values["plot"])
    if as_json:
        _dump(about | {"store": store})
    else:
        _print_sweep(about, curves, before, store)
        if done:
            print("wrote " + ", ".join(done))
    if about["best"] is None:
        from odeae.base.status import Status

        status, stop = (curves[name].values.flat[0] for name in ("status", "stop_time"))
        raise RuntimeError(f"no curve finished; the first {Status(int(status)).message(stop)}")


def _in_pieces(curves: Any) -> Any:
    """A dataset of a large store that goes to another file chunk by chunk, not through memory."""
    if curves.nbytes < _LARGE or "preferred_chunks" not in curves["status"].encoding:
        return curves
    return curves.chunk(curves["status"].encoding["preferred_chunks"])


_LARGE = 2**28  # bytes: below, Dask isn't worth its start, nor needed


def _stored_curves(store: str | None) -> int:
    """How many curves a store holds; 0 for what is none, of which `sweep` says what is wrong."""
    if store is None or not (Path(store) / "zarr.json").is_file():
        return 0
    try:
        import xarray

        return int((xarray.open_zarr(store, chunks=None)["status"] >= 0).sum())
    except Exception:  # whatever Zarr and xarray raise on what no sweep wrote
        return 0


def _about_sweep(curves: Any, grid: dict[str, list]) -> dict[str, Any]:
    """Sizes, statuses and the best point of a sweep.

    Where the rank or the spectrum is swept, so is the PCA error, and it's the error that is
    compared: a narrow network is close to a PCA error that is high.
    """
    import numpy as np

    from odeae.base.status import Status

    status, excess = curves["status"].values, curves["final_excess"].values
    counts = {s.name.lower(): int(np.sum(status == s)) for s in Status}
    best = None
    if counts["ok"]:
        one_level = not grid.keys() & {"hidden", *(s.key for s in config.SPECTRUM)}
        what = excess if one_level else curves["error"].isel(time=-1).values
        place = np.unravel_index(np.nanargmin(np.where(status == 0, what, np.nan)), status.shape)
        at = curves[list(grid)].isel(dict(zip(curves["status"].dims, place, strict=True)))
        best = {name: at[name].item() for name in grid}
        if not one_level:
            best["final_error"] = float(what[place])
        best["final_excess"] = float(excess[place])
    sizes = {name: len(values) for name, values in grid.items()}
    return {
        "curves": status.size,
        "grid": sizes,
        "status": {name: count for name, count in counts.items() if count},
        "best": best,
    }


def _print_sweep(about: dict[str, Any], curves: Any, before: int, store: str | None) -> None:
    def text(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    zipped = curves["status"].dims == ("lane",)
    over = [name if zipped else f"{name} ({size})" for name, size in about["grid"].items()]
    print(f"{about['curves']} curves over {(', ' if zipped else ' × ').join(over)}")
    print("status   " + ", ".join(f"{count} {name}" for name, count in about["status"].items()))
    if about["best"] is not None:
        best, end = about["best"], float(curves["time"][-1])
        at = ", ".join(f"{k}={text(v)}" for k, v in best.items() if k in about["grid"])
        above = f"{best['final_excess']:.4g} above PCA"
        if "final_error" in best:
            print(f"best     {at}: error {best['final_error']:.4g}, {above}, at t={end:g}")
            print(
                "         (the lowest error: points differ in the PCA error that they could reach)"
            )
        else:
            print(f"best     {at}: {above} at t={end:g}")
    if store is not None:
        new = about["curves"] - before
        what = f"{new} of them new" if new else "nothing was left to do"
        print(f"store    {store} ({what}): xarray.open_zarr({store!r})")


def _what_to_plot(curves: Any, axes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a picture of any sweep can show: `axes` or its first two parameters, seeds averaged."""
    dims = curves["status"].dims
    zipped = dims == ("lane",)
    names = [name for name, x in curves.coords.items() if x.dims == dims] if zipped else list(dims)
    varied = [name for name in names if len(set(curves[name].values.tolist())) > 1] or names[:1]
    varied.sort(key=lambda name: curves[name].dtype.kind not in "iuf")
    averaged = ["seed"] if "seed" in varied and len(varied) > 1 and "seed" not in axes else []
    shown = axes or tuple(name for name in varied if name not in averaged)[:2]
    chosen = dict(zip("xy", shown, strict=False))
    if zipped:
        return chosen
    select = {name: curves[name].values[0] for name in varied if name not in (*shown, *averaged)}
    return {**chosen, "select": select, "mean": averaged}


_SHOWN = ["error", "excess", "order-parameters", "overlaps", "plateaus"]


@app.command(cls=_Command)
def plot(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .nc file or a .zarr store.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.png", help="The picture; default: FILE.png."),
    ] = None,
    what: Annotated[
        str, typer.Option(metavar="WHAT", help=", ".join(_SHOWN) + "; of a store the first two.")
    ] = "error",
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="One curve of the file; default: all.")
    ] = None,
    x: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a store: the parameter to the right.")
    ] = None,
    y: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a store: the parameter upwards.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture.")] = False,
    as_json: Json = False,
) -> None:
    """Draw what was saved: the curves of a .nc file, or the sweep in a .zarr store."""
    one_of("what", what, _SHOWN)
    stored = Path(file).suffix.lower() == ".zarr"
    for name, value, fits in (("group", group, not stored), ("x", x, stored), ("y", y, stored)):
        if value is not None and not fits:
            raise ValueError(
                f"--{name} has no meaning for {file!r}: --group is for .nc, --x and --y for stores"
            )
    if not stored:
        existing_file("file", file)
    picture = str(Path(file).with_suffix(".png")) if output is None and file else output
    _check_outputs({"plot": picture, "overwrite": overwrite})
    _start_jax()
    axes = _plot_store(file, what, x, y) if stored else _plot_file(file, what, group)
    _save_figure(axes, str(picture), overwrite)
    if as_json:
        _dump({"output": picture})
    else:
        print(f"wrote {picture}")


def _plot_file(file: str, what: str, group: str | None) -> Any:
    import numpy as np

    from odeae.plotting.curves import plot
    from odeae.plotting.plateaus import plot_plateaus
    from odeae.results.saving import groups, load

    names = groups(file) if group is None else [group]
    if what in ("error", "excess"):
        quantity = "excess" if what == "excess" else None
        return plot(
            *(load(file, name) for name in names or [None]), labels=names or None, quantity=quantity
        )
    if len(names) > 1:
        raise ValueError(f"--what {what} shows one curve: add --group {' or '.join(names)}")
    trajectory = load(file, names[0] if names else None)
    if what == "plateaus":
        return plot_plateaus(trajectory)
    many = trajectory.plot_overlaps() if what == "overlaps" else trajectory.plot_order_parameters()
    return np.ravel(many)[0]


def _plot_store(file: str, what: str, x: str | None, y: str | None) -> Any:
    from odeae.plotting.sweeps import plot_sweep
    from odeae.sweeps.store import open_sweep

    one_of("what of a store", what, _SHOWN[:2])
    if y is not None and x is None:
        raise ValueError("--y needs --x, the parameter to the right")
    curves = open_sweep(file)
    chosen = _what_to_plot(curves, tuple(name for name in (x, y) if name is not None))
    value = {"excess": "final_excess", "error": "error" if "y" in chosen else None}[what]
    return plot_sweep(curves, value=value, **chosen)


@app.command(cls=_Command)
def spectrum(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help=".npy, .npz, .csv, .txt, or a .toml."),
    ],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="data (rows, D), covariance or eigenvalues.")
    ] = "data",
    n_spikes: Annotated[
        int | None, typer.Option(help="Modes followed one by one; default: the outliers.")
    ] = None,
    bins: Annotated[int | None, typer.Option(help="Bins for the other modes \\[32].")] = None,
    ranks: Annotated[int, typer.Option(help="Rows of the table.")] = 12,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw eigenvalues against rank.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture.")] = False,
    as_json: Json = False,
) -> None:
    """Look at the spectrum of a data file: leading eigenvalues, PCA errors, spikes and bins."""
    import numpy as np

    from odeae.base.checks import whole

    _check_outputs({"plot": plot, "overwrite": overwrite})
    one_of("kind", kind, ["data", "covariance", "eigenvalues"])
    whole("ranks", ranks)
    _start_jax()
    given = {"n_spikes": n_spikes, "bins": bins}
    toml = file if file.endswith(".toml") else None
    settings = config.read(toml, config.SPECTRUM, given if toml else {**given, kind: file})
    values = config.build_spectrum(settings)
    rho = np.sort(np.asarray(values.eigenvalues()))[::-1]
    levels = np.asarray(values.pca_errors(values.dim if values.dim <= 4096 else ranks))
    if as_json:
        _dump(
            {
                "dim": values.dim,
                "trace": values.trace,
                "eigenvalues": rho,
                "pca_errors": levels,
                "spikes": values.spikes,
                "bulk": values.bulk,
                "multiplicity": values.multiplicity,
            }
        )
    else:
        print(values)
        zeros = int(np.sum(rho == 0))
        if zeros:
            print(f"{zeros} of {values.dim} eigenvalues are 0")
        rows = range(min(ranks, values.dim))
        _table(
            {
                "rank": [str(i + 1) for i in rows],
                "ρ": [f"{rho[i]:.5g}" for i in rows],
                "ρ/D": [f"{rho[i] / values.dim:.5g}" for i in rows],
                "share of variance": [
                    f"{100 * rho[: i + 1].sum() / rho.sum():.1f} %" for i in rows
                ],
                "PCA error": [f"{levels[i + 1]:.5g}" for i in rows],
            },
        )
    if plot is not None:
        from odeae.plotting.spectra import plot_spectrum

        _save_figure(plot_spectrum(values), plot, overwrite)
        if not as_json:
            print(f"wrote {plot}")


@app.command(cls=_Command)
def validate(
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for the results.")
    ] = "validation",
    quick: Annotated[
        bool, typer.Option("--quick", help="Two dimensions and few runs: under 3 minutes.")
    ] = False,
    row: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A row of the matrix, may be repeated; default: all."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold every learning rule and network against SGD, extrapolated to D → ∞ (some 15 minutes).

    Writes validation.md (a table), validation.png (a panel per row) and validation.nc.
    Exit code 2 if a row deviates.
    """
    from odeae.base.files import writing

    names = [f"validation.{kind}" for kind in ("md", "png", "nc")]
    folder, files = _folder(output, names, overwrite)
    _start_jax()
    from odeae.analysis import validation
    from odeae.plotting.validation import figure

    def say(name: str) -> None:
        if _bar():
            print(f"odeae: {name}", file=sys.stderr)

    names = {known.name.lower(): known.name for known in validation.MATRIX}
    chosen = None if row is None else [names.get(name.lower(), name) for name in row]
    results = validation.validate(quick, chosen, say)
    folder.mkdir(exist_ok=True)
    table = validation.markdown(results)
    with writing(files[0], overwrite) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    drawn = figure(results)
    _save_figure(drawn.axes[0], files[1], overwrite)
    with writing(files[2], overwrite) as temporary:
        validation.to_xarray(results).to_netcdf(temporary, engine="h5netcdf")
    if as_json:
        _dump(
            {
                r.row.name: {
                    "dims": list(r.dims),
                    "deviation": r.deviation,
                    "standard_error": r.standard_error,
                    "limit": r.limit,
                    "limit_error": r.limit_error,
                    "verdict": r.verdict,
                }
                for r in results
            }
        )
    else:
        print(table)
        print("wrote " + ", ".join(map(str, files)))
    if not all(r.agrees for r in results):
        raise typer.Exit(2)


@app.command(cls=_Command)
def demo(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")] = "demo",
    runs: Annotated[int, typer.Option(help="Runs per kind of input.")] = 8,
    end: Annotated[float, typer.Option(help="Last time, in steps/D.")] = 200.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace earlier results.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The main job on real input: 32×32 patches of photographs, K = 8, erf.

    Theory from the patches' spectrum against SGD on the patches themselves and on Gaussian inputs
    of the same covariance: demo.png, demo.nc and a table.
    """
    _check_runs(runs)
    folder, (picture, archive) = _folder(output, ["demo.png", "demo.nc"], overwrite)
    _start_jax()
    from odeae.analysis.compare import compare as compare_
    from odeae.base.times import log_times
    from odeae.data.patches import natural_patches
    from odeae.model.autoencoder import Autoencoder
    from odeae.model.initial import random_state
    from odeae.model.problem import Problem
    from odeae.model.rules import SGD
    from odeae.model.spectrum import Spectrum
    from odeae.plotting.curves import plot
    from odeae.results.saving import save_all
    from odeae.simulation.sgd import simulate as simulate_
    from odeae.theory.predict import predict as predict_

    patches = natural_patches()
    problem = Problem(Spectrum.from_data(patches), Autoencoder(8), SGD())
    if not as_json:
        print(f"{len(patches)} patches: {problem.spectrum}")
    state = random_state(problem)
    times = log_times(end, 40, start=end / 1000.0, dim=problem.spectrum.dim)
    theory = predict_(problem, state, _denser(times))
    curves: dict[str | None, Any] = {"theory": theory}
    for name, data in (("gaussian", None), ("real", patches)):
        curves[name] = simulate_(
            problem, state, times, runs=runs, data=data, test_samples=1000, progress=_bar()
        )
    checks = {
        "Gaussian, by formula": compare_(theory, curves["gaussian"]),
        "Gaussian, held out": compare_(theory, curves["gaussian"], "test_error"),
        "patches, held out": compare_(theory, curves["real"]),
        "patches, by formula": compare_(theory, curves["real"], "error"),
    }
    folder.mkdir(exist_ok=True)
    save_all(archive, curves, overwrite)
    labels = [
        "theory, from the spectrum",
        "SGD, Gaussian inputs of the same covariance",
        "SGD, the patches themselves (test error)",
    ]
    axes = plot(*curves.values(), labels=labels)
    axes.set_title(
        f"Photographs, 32×32 patches: D = {problem.spectrum.dim}, K = 8, erf", fontsize=10
    )
    _save_figure(axes, picture, overwrite)
    if as_json:
        _dump(
            {
                name: {
                    "verdict": check.verdict,
                    "largest_deviation": check.largest,
                    "relative": check.relative,
                    "largest_z": float(abs(check.z).max()),
                    "final": check.mean[-1],
                    "theory_final": check.theory[-1],
                }
                for name, check in checks.items()
            }
        )
        return
    biggest = [abs(check.deviation).argmax() for check in checks.values()]
    each = list(zip(checks.values(), biggest, strict=True))
    _table(
        {
            "inputs, error": list(checks),
            "at the end": [f"{c.mean[-1]:.4f}" for c, _ in each],
            "largest dev.": [f"{c.deviation[i]:+.4f}" for c, i in each],
            "at t": [f"{c.times[i]:.3g}" for c, i in each],
            "± s.e.": [f"{c.standard_error[i]:.4f}" for c, i in each],
            "average dev.": [f"{c.average:+.4f} ± {c.average_error:.4f}" for c, _ in each],
            "verdict": [c.verdict for c, _ in each],
        },
        f"SGD ({runs} runs each) against the theory, t = 0 … {times[-1]:g}",
    )
    print("held out: mean error on samples that a run never saw; by formula: the theory's own")
    print("definition from the weights of the runs, exact for Gaussian inputs only.")
    formula = checks["patches, by formula"]
    percent = 100.0 * formula.relative
    print(f"The patches, which are not Gaussian, are by formula up to {percent:.1f} % of the first")
    print("error away from the theory.")
    levels = problem.spectrum.pca_errors(8)
    print(f"theory at the end: {theory.error[-1]:.4f}, PCA error of rank 8: {levels[-1]:.4f}")
    print(f"wrote {picture}, {archive}")


@app.command(cls=_Command)
def patches(
    output: Annotated[str, typer.Argument(metavar="FILE.npy", help="File for the patches.")],
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]", help="Folder of images, or one image; else bundled photographs."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of a patch, in pixels: D is its square.")] = 32,
    stride: Annotated[int, typer.Option(help="Pixels from one patch to the next.")] = 12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Cut grey patches of images, (samples, D), as data: of your own, or of bundled photographs."""
    import numpy as np

    from odeae.base.files import check_output, writing
    from odeae.data.patches import image_patches, natural_patches

    if Path(output).suffix != ".npy":
        raise ValueError(f"the patches are saved as .npy, got {output!r}")
    check_output(output, overwrite)
    x = natural_patches(size, stride) if images is None else image_patches(images, size, stride)
    with writing(output, overwrite) as temporary:
        np.save(temporary, x)
    if as_json:
        _dump({"output": output, "patches": x.shape[0], "dim": x.shape[1]})
    else:
        print(f"wrote {output}: {x.shape[0]} patches of {size}×{size} pixels, D = {x.shape[1]}")


def _terminated(*_: Any) -> None:
    raise SystemExit(143)  # unwinds, so that no half-written file stays


def main() -> None:
    """Run the shell; every failure that has a message is one line on stderr and exit code 1."""
    before = signal.signal(signal.SIGTERM, _terminated), warnings.showwarning
    warnings.showwarning = lambda message, *args, **kwargs: print(
        f"odeae: warning: {' '.join(str(message).split())}", file=sys.stderr
    )
    try:
        _run()
    finally:  # for those who call this from a process of their own
        signal.signal(signal.SIGTERM, before[0])
        warnings.showwarning = before[1]


def _run() -> None:
    code = 130
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        if not error.format_message():  # no command: the help was shown
            sys.exit(1)
        path = error.ctx.command_path if error.ctx else "odeae"
        _fail(f"{error.format_message()} (see {path} --help)")
    except (KeyboardInterrupt, typer.Abort):
        pass
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        _fail(str(error))
    except MemoryError as error:
        _fail(f"this needs more memory than there is: {error}")
    if code == 130:
        print("odeae: interrupted, nothing half-written", file=sys.stderr)
    sys.exit(code or 0)


def _fail(message: str) -> None:
    print(f"odeae: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
