"""What commands write: tables, JSON, pictures and files."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from odeae.base.progress import at_terminal


def check_outputs(values: dict[str, Any], endings: tuple[str, ...] = (".nc", ".csv")) -> None:
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


def make_folder(output: str, names: list[str], overwrite: bool) -> tuple[Path, list[Path]]:
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


def check_runs(runs: int | None) -> None:
    """Raise `ValueError` for fewer runs than a standard error needs."""
    if runs is not None and runs < 2:
        raise ValueError(f"`runs` must be at least 2 for a standard error, got {runs}")


def _check_picture(name: str, path: str) -> None:
    kinds = (".png", ".pdf", ".svg", ".jpg")
    if Path(path).suffix.lower() not in kinds:
        raise ValueError(f"`{name}` must end in one of {', '.join(kinds)}, got {path!r}")


def progress_bar() -> bool:
    """Progress bars are for people at a terminal."""
    return at_terminal()


def save_figure(axes: Any, path: str | Path, overwrite: bool) -> None:
    """Write the figure of these axes to a file, whole or not at all."""
    from odeae.base.files import writing

    with writing(path, overwrite) as temporary:
        axes.figure.savefig(temporary, dpi=160)
        import matplotlib.pyplot as plt

        plt.close(axes.figure)


def print_table(columns: dict[str, list[str]], title: str | None = None) -> None:
    """Print a table of texts, a column for each key."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def some_rows(times: Any, most: int = 9) -> list[int]:
    """Return the indices of a few times, evenly spaced, for a table."""
    import numpy as np

    return np.unique(np.linspace(0, len(times) - 1, most).round().astype(int)).tolist()


def write_outputs(
    values: dict[str, Any], trajectories: dict[str | None, Any], as_json: bool
) -> None:
    """Write the files that were asked for, and say so."""
    from odeae.plotting.curves import plot
    from odeae.plotting.parameters import plot_overlaps
    from odeae.results.saving import save_all

    done = []
    if values["output"] is not None:
        save_all(values["output"], trajectories, values["overwrite"])
        done.append(values["output"])
    if values["plot"] is not None:
        save_figure(plot(*trajectories.values()), values["plot"], values["overwrite"])
        done.append(values["plot"])
    if values["plot_overlaps"] is not None:
        axes = plot_overlaps(next(iter(trajectories.values())))
        save_figure(axes[0, 0], values["plot_overlaps"], values["overwrite"])
        done.append(values["plot_overlaps"])
    if done and not as_json:
        print("wrote " + ", ".join(done))


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object, arrays as lists and NaN as null."""
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


def summary(trajectory: Any) -> dict[str, Any]:
    """Return what `--json` says of a trajectory."""
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


def in_pieces(curves: Any) -> Any:
    """A dataset of a large store that goes to another file chunk by chunk, not through memory."""
    if curves.nbytes < _LARGE or "preferred_chunks" not in curves["status"].encoding:
        return curves
    return curves.chunk(curves["status"].encoding["preferred_chunks"])


_LARGE = 2**28  # bytes: below, Dask isn't worth its start, nor needed
