"""`odeae sweep`."""

import sys
from pathlib import Path
from typing import Any

from odeae.shell import builders, grids
from odeae.shell import settings as config
from odeae.shell.app import as_command, start_jax
from odeae.shell.output import check_outputs, in_pieces, print_json, progress_bar, save_figure


@as_command(config.COMMON, config.SOLVE, config.SWEEP, config.SWEEP_OUTPUT)
def sweep(values: dict[str, Any], as_json: bool) -> None:
    """Predict a curve for every point of a grid of settings, and keep them as they come.

    With --store, an interrupted sweep loses nothing that was done: the same command goes on.
    """
    check_outputs(values, (".nc",))
    if values["diffusion"]:
        raise ValueError("`diffusion` is for `odeae predict`: a sweep has no noise of SGD's steps")
    grid = grids.build_grid(values)
    start_jax()
    from odeae.sweeps.sweep import sweep as sweep_

    store, save = values["store"], values["save"]
    options = {name: values[name] for name in ("zip", "rtol", "atol", "max_steps", "chunk")}
    options["save"] = save.replace(",", " ").split() if isinstance(save, str) else save or ()
    options["progress"] = progress_bar() if values["progress"] is None else values["progress"]
    build, times = grids.Build.of(values, grid), builders.build_times(values, 200)
    before, options = _stored_curves(store), options | grids.build_pool(values)
    try:
        curves = sweep_(build, grid, times, store=store, **options)
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
            in_pieces(curves).to_netcdf(temporary, engine="h5netcdf")
        done.append(values["output"])
    about = _about_sweep(curves, grid)
    if values["plot"] is not None and about["best"] is not None:
        from odeae.plotting.sweeps import plot_sweep

        axes = plot_sweep(curves, **what_to_plot(curves))
        save_figure(axes, values["plot"], values["overwrite"])
        done.append(values["plot"])
    if as_json:
        print_json(about | {"store": store})
    else:
        _print_sweep(about, curves, before, store)
        if done:
            print("wrote " + ", ".join(done))
    if about["best"] is None:
        from odeae.base.status import Status

        status, stop = (curves[name].values.flat[0] for name in ("status", "stop_time"))
        raise RuntimeError(f"no curve finished; the first {Status(int(status)).message(stop)}")


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


def what_to_plot(curves: Any, axes: tuple[str, ...] = ()) -> dict[str, Any]:
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
