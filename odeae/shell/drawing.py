"""`odeae plot`, `odeae spectrum`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from odeae.base.files import existing_file
from odeae.base.messages import one_of
from odeae.shell import builders
from odeae.shell import settings as config
from odeae.shell.app import Command, Json, app, start_jax
from odeae.shell.output import check_outputs, print_json, print_table, save_figure
from odeae.shell.sweeping import what_to_plot

_SHOWN = ["error", "excess", "order-parameters", "overlaps", "plateaus"]


@app.command(cls=Command)
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
    check_outputs({"plot": picture, "overwrite": overwrite})
    start_jax()
    axes = _plot_store(file, what, x, y) if stored else _plot_file(file, what, group)
    save_figure(axes, str(picture), overwrite)
    if as_json:
        print_json({"output": picture})
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
    chosen = what_to_plot(curves, tuple(name for name in (x, y) if name is not None))
    value = {"excess": "final_excess", "error": "error" if "y" in chosen else None}[what]
    return plot_sweep(curves, value=value, **chosen)


@app.command(cls=Command)
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

    check_outputs({"plot": plot, "overwrite": overwrite})
    one_of("kind", kind, ["data", "covariance", "eigenvalues"])
    whole("ranks", ranks)
    start_jax()
    given = {"n_spikes": n_spikes, "bins": bins}
    toml = file if file.endswith(".toml") else None
    settings = config.read(toml, config.SPECTRUM, given if toml else {**given, kind: file})
    values = builders.build_spectrum(settings)
    rho = np.sort(np.asarray(values.eigenvalues()))[::-1]
    levels = np.asarray(values.pca_errors(values.dim if values.dim <= 4096 else ranks))
    if as_json:
        print_json(
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
        print_table(
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

        save_figure(plot_spectrum(values), plot, overwrite)
        if not as_json:
            print(f"wrote {plot}")
