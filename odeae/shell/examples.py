"""`odeae validate`, `demo`, `patches`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odeae.shell.app import Command, Json, app, start_jax
from odeae.shell.curves import denser
from odeae.shell.output import (
    check_runs,
    make_folder,
    print_json,
    print_table,
    progress_bar,
    save_figure,
)

if TYPE_CHECKING:
    from odeae.analysis.compare import Comparison


@app.command(cls=Command)
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
    folder, files = make_folder(output, names, overwrite)
    start_jax()
    from odeae.analysis import validation
    from odeae.plotting.validation import figure

    def say(name: str) -> None:
        if progress_bar():
            print(f"odeae: {name}", file=sys.stderr)

    names = {known.name.lower(): known.name for known in validation.MATRIX}
    chosen = None if row is None else [names.get(name.lower(), name) for name in row]
    results = validation.validate(quick, chosen, say)
    folder.mkdir(exist_ok=True)
    table = validation.markdown(results)
    with writing(files[0], overwrite) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    drawn = figure(results)
    save_figure(drawn.axes[0], files[1], overwrite)
    with writing(files[2], overwrite) as temporary:
        validation.to_xarray(results).to_netcdf(temporary, engine="h5netcdf")
    if as_json:
        print_json(
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


@app.command(cls=Command)
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
    check_runs(runs)
    folder, (picture, archive) = make_folder(output, ["demo.png", "demo.nc"], overwrite)
    start_jax()
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
    theory = predict_(problem, state, denser(times))
    curves: dict[str | None, Any] = {"theory": theory}
    for name, data in (("gaussian", None), ("real", patches)):
        curves[name] = simulate_(
            problem, state, times, runs=runs, data=data, test_samples=1000, progress=progress_bar()
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
    save_figure(axes, picture, overwrite)
    if as_json:
        print_json({name: _in_numbers(check) for name, check in checks.items()})
        return
    _print_checks(checks, f"SGD ({runs} runs each) against the theory, t = 0 … {times[-1]:g}")
    print("held out: mean error on samples that a run never saw; by formula: the theory's own")
    print("definition from the weights of the runs, exact for Gaussian inputs only.")
    percent = 100.0 * checks["patches, by formula"].relative
    print(f"The patches, which are not Gaussian, are by formula up to {percent:.1f} % of the first")
    print("error away from the theory.")
    levels = problem.spectrum.pca_errors(8)
    print(f"theory at the end: {theory.error[-1]:.4f}, PCA error of rank 8: {levels[-1]:.4f}")
    print(f"wrote {picture}, {archive}")


def _in_numbers(check: "Comparison") -> dict[str, Any]:
    return {
        "verdict": check.verdict,
        "largest_deviation": check.largest,
        "relative": check.relative,
        "largest_z": float(abs(check.z).max()),
        "final": check.mean[-1],
        "theory_final": check.theory[-1],
    }


def _print_checks(checks: dict[str, "Comparison"], title: str) -> None:
    each = [(check, abs(check.deviation).argmax()) for check in checks.values()]
    print_table(
        {
            "inputs, error": list(checks),
            "at the end": [f"{c.mean[-1]:.4f}" for c, _ in each],
            "largest dev.": [f"{c.deviation[i]:+.4f}" for c, i in each],
            "at t": [f"{c.times[i]:.3g}" for c, i in each],
            "± s.e.": [f"{c.standard_error[i]:.4f}" for c, i in each],
            "average dev.": [f"{c.average:+.4f} ± {c.average_error:.4f}" for c, _ in each],
            "verdict": [c.verdict for c, _ in each],
        },
        title,
    )


@app.command(cls=Command)
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
        print_json({"output": output, "patches": x.shape[0], "dim": x.shape[1]})
    else:
        print(f"wrote {output}: {x.shape[0]} patches of {size}×{size} pixels, D = {x.shape[1]}")
