"""The shell, as a newcomer and as a script would use it."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import xarray

import odeae
from odeae.base import progress as waiting
from odeae.shell import app, curves, drawing, examples, grids, main, output, sweeping
from odeae.shell import settings as config
from odeae.sweeps import sweep as sweeps
from odeae.sweeps import workers
from odeae.sweeps.probes import traceable
from odeae.sweeps.store import Layout, Variable, open_store
from odeae.theory import strategy

SMALL = ["--spikes", "1,0.6", "--dim", "100", "--hidden", "2", "--end", "2"]
LONGER = [*SMALL[:-1], "3"]


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for module in (curves, drawing, examples, sweeping):
        monkeypatch.setattr(module, "start_jax", lambda: None)  # conftest has set the same

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["odeae", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_predict_prints_saves_and_plots(shell, tmp_path):
    code, out, err = shell("predict", *SMALL, "-o", "a.nc", "--plot", "a.png")
    assert code == 0, err
    assert "status   ok" in out
    assert "wrote a.nc, a.png" in out
    spectrum = odeae.Spectrum.spiked([1, 0.6], dim=100)
    problem = odeae.Problem(spectrum, odeae.Autoencoder(2), odeae.SGD())
    expected = odeae.predict(problem, odeae.random_state(problem), odeae.log_times(2.0, 200))
    np.testing.assert_array_equal(odeae.load("a.nc").error, expected.error)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_terminal_costs_no_other_program(shell, monkeypatch):
    """A bar inside the solve would be compiled anew on every run, and leave the fast path."""
    asked = []
    solve = strategy._solve_as_lane
    monkeypatch.setattr(strategy, "_solve_as_lane", lambda *a: asked.append(a) or solve(*a))
    for module in (output, waiting):
        monkeypatch.setattr(module, "at_terminal", lambda: True)
    code, _, err = shell("predict", *SMALL, "--times", "0,1,2")
    assert code == 0, err
    assert len(asked) == 1


def test_every_rule_has_its_flags(shell, tmp_path):
    """What the flags say is what the problem is; a file can say the same."""
    (tmp_path / "c.toml").write_text(
        "[spectrum]\nspikes = [1.0, 0.6]\ndim = 100\n[autoencoder]\nhidden = 2\ntied = true\n"
        "activation = 'linear'\ngain = 1.5\nnoise = 0.5\nbias = true\noutput_bias = true\n"
        "[times]\nend = 2\n"
        "[rule]\ngradient = 'decoder'\nschedule = 'step:1=0.5,1.5=0.1'\n"
    )
    network = odeae.Autoencoder(2, "linear", tied=True, bias=True, output_bias=True, gain=1.5)
    rule = odeae.SGD(gradient="decoder", schedule=odeae.StepSchedule([1.0, 1.5], [0.5, 0.1]))
    linear = odeae.Autoencoder(2, "linear", tied=True)
    sanger = odeae.Sanger(2.0, schedule=odeae.CosineSchedule(5.0, 0.1))
    flags = ["--rule", "sanger", "--tied", "--activation", "linear", "--schedule", "cosine:5,0.1"]
    truncated = odeae.SGD(truncated=True, schedule=odeae.PowerLawSchedule(0.5, 3.0))
    for words, (ae, want, noise) in (
        (["c.toml"], (network, rule, 0.5)),
        ([*SMALL, *flags, "--lr", "2"], (linear, sanger, 0.0)),
        (
            [*SMALL, "--truncated", "--activation", "linear", "--schedule", "power-law:0.5,3"],
            (odeae.Autoencoder(2, "linear"), truncated, 0.0),
        ),
    ):
        code, out, err = shell("predict", *words, "--json")
        assert code == 0, err
        problem = odeae.Problem(odeae.Spectrum.spiked([1, 0.6], 100), ae, want, noise=noise)
        expected = odeae.predict(problem, odeae.random_state(problem), odeae.log_times(2.0, 200))
        result = json.loads(out)
        np.testing.assert_allclose(result["error"], expected.error, rtol=1e-12)
        assert ("error_clean" in result) == (noise > 0)


def test_an_ensemble_from_the_shell(shell, tmp_path):
    code, out, err = shell(
        "predict", *SMALL, "--members", "4", "--plot", "a.png", "--plot-overlaps", "b.png"
    )
    assert code == 0, err
    assert "4 members" in out
    assert "mean error" in out
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_an_ensemble_without_a_finished_member_fails(shell):
    hebb = ["--rule", "hebb", "--activation", "linear", "--tied"]
    code, _, err = shell("predict", *SMALL[:-1], "5000", *hebb, "--members", "2")
    assert code == 1
    assert "no member finished; the first stopped at t=" in err


def test_validate_writes_a_table_a_figure_and_a_file(shell, tmp_path):
    code, out, err = shell("validate", "--quick", "--row", "Oja")
    assert code == 0, err
    table = (tmp_path / "validation" / "validation.md").read_text()
    assert "| Oja | ≤ 20 |" in table
    assert table in out
    names = {path.suffix for path in (tmp_path / "validation").iterdir()}
    assert names == {".md", ".png", ".nc"}
    code, _, err = shell("validate", "--quick", "--row", "Oja")
    assert code == 1
    assert "--overwrite" in err


def test_json_is_one_object_and_nothing_else(shell):
    code, out, _ = shell("predict", *SMALL, "--json", "--times", "0,1,2")
    result = json.loads(out)
    assert code == 0
    assert result["status"] == "ok"
    assert result["times"] == [0, 1, 2]
    assert result["error"][0] > result["error"][-1] > result["pca_errors"][-1]
    above = np.array(result["error"]) - result["pca_errors"][-1]
    np.testing.assert_allclose(result["excess"], above, rtol=1e-9)


def test_plot_draws_what_was_saved(shell, tmp_path):
    code, _, err = shell("compare", *SMALL, "--runs", "4", "--count", "6", "-o", "both.nc")
    assert code == 0, err
    for words in ([], ["--what", "order-parameters", "--group", "theory", "-o", "b.png"]):
        code, out, err = shell("plot", "both.nc", *words)
        assert code == 0, err
        name = "b.png" if words else "both.png"
        assert out == f"wrote {name}\n"
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    code, _, err = shell("plot", "both.nc", "--what", "overlaps", "-o", "c.png")
    assert code == 1
    assert "add --group theory or runs" in err


def test_flags_override_toml(shell, tmp_path):
    (tmp_path / "c.toml").write_text(
        "[spectrum]\nspikes = [1.0, 0.6]\ndim = 100\n[autoencoder]\nhidden = 2\n"
        "[rule]\nlr = 0.5\n[times]\ntimes = [0, 1, 2]\n[simulate]\nruns = 3\n"
    )
    _, from_toml, _ = shell("predict", "c.toml", "--json")
    _, from_flags, _ = shell("predict", *SMALL, "--times", "0,1,2", "--lr", "0.5", "--json")
    _, overridden, _ = shell("predict", "c.toml", "--lr", "1.0", "--json")
    assert json.loads(from_toml) == json.loads(from_flags)
    assert json.loads(overridden)["error"][1] < json.loads(from_toml)["error"][1]
    _, later, _ = shell("predict", "c.toml", "--end", "3", "--json")
    assert json.loads(later)["times"][-1] == 3.0


def test_simulate_stops_and_resumes_exactly(shell):
    shell("simulate", *SMALL, "--runs", "2", "--times", "0,1", "-o", "half.nc")
    code, out, err = shell(
        "simulate", *SMALL, "--times", "0,1,2", "--resume", "half.nc", "-o", "rest.nc"
    )
    assert code == 0, err
    assert "2 runs" in out
    shell("simulate", *SMALL, "--runs", "2", "--times", "0,1,2", "-o", "whole.nc")
    rest, whole = odeae.load("rest.nc"), odeae.load("whole.nc")
    np.testing.assert_array_equal(rest.error[:, -1], whole.error[:, -1])


def test_compare_states_a_verdict_and_keeps_both_curves(shell):
    flags = [*SMALL, "--runs", "4", "--count", "6"]
    code, out, err = shell("compare", *flags, "-o", "both.nc")
    assert code == 0, err
    assert "agrees" in out
    result = json.loads(shell("compare", *flags, "--json")[1])
    assert result["largest_deviation"] < 0.05 * result["theory"][0]
    both = [odeae.load("both.nc", group=name) for name in ("theory", "runs")]
    assert set(both[1].times) < set(both[0].times)  # the theory stands in between as well
    with pytest.raises(ValueError, match="group"):
        odeae.load("both.nc")


def test_resuming_says_what_is_wrong_with_the_file(shell):
    """It once said that the file has no groups, whatever was wrong."""
    with open("bad.nc", "w") as file:
        file.write("text")
    code, _, err = shell("simulate", *LONGER, "--resume", "bad.nc")
    assert code != 0
    assert "can't read 'bad.nc' as netCDF" in err


def test_resume_takes_the_runs_of_a_comparison_but_no_others(shell):
    shell("compare", *SMALL, "--runs", "4", "--count", "6", "-o", "both.nc")
    code, _, err = shell("simulate", *LONGER, "--resume", "both.nc")
    assert code == 0, err
    for flags, message in (
        (["--runs", "5"], "`runs` can't change: the runs that go on have 4, got 5"),
        (["--seed", "1"], "`seed` can't change: the runs that go on have 0, got 1"),
        (["--lr", "0.5"], "`weights` are of runs with another rule lr: 1.0, got 0.5"),
        (["--activation", "relu"], "another autoencoder activation: 'Erf', got 'ReLU'"),
        (["--start", "1"], "--start has no meaning beside --resume"),
    ):
        code, _, err = shell("simulate", *LONGER, "--resume", "both.nc", *flags)
        assert code == 1
        assert message in err


def test_a_fresh_process_computes_in_float64_and_fills_its_compilation_cache(tmp_path):
    command = [sys.executable, "-m", "odeae", "predict", *SMALL, "--times", "0,2", "--json"]
    cache = tmp_path / "cache"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    outputs = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(json.loads(done.stdout))
    assert outputs[0] == outputs[1]
    problem = odeae.Problem(odeae.Spectrum.spiked([1, 0.6], dim=100), odeae.Autoencoder(2))
    expected = odeae.predict(problem, odeae.random_state(problem), [0.0, 2.0]).error
    np.testing.assert_allclose(outputs[0]["error"], expected, rtol=1e-12)
    assert list(cache.glob("jit__solve*"))  # not only the small programs around it


def test_a_killed_run_leaves_no_half_written_file(tmp_path):
    """SIGTERM, as a cluster sends it, in the middle of writing."""
    code = (
        "import os, signal, sys, odeae.shell.main as c, odeae.base.files as f\n"
        "import xarray\n"
        "def stop(self, path, **kw):\n"
        "    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGTERM)\n"
        "xarray.Dataset.to_netcdf = stop\n"
        f"sys.argv = ['odeae', 'predict', *{SMALL!r}, '-o', 'x.nc']\nc.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_spectrum_and_real_inputs(shell, tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 20)) * np.linspace(2, 0.1, 20)
    np.save(tmp_path / "x.npy", x)
    code, out, err = shell("spectrum", "x.npy", "--plot", "s.png")
    assert code == 0, err
    assert "wrote s.png" in out
    result = json.loads(shell("spectrum", "x.npy", "--json")[1])
    rho = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    np.testing.assert_allclose(result["eigenvalues"], rho, rtol=1e-10)
    (tmp_path / "s.toml").write_text("[spectrum]\nspikes = [1, 0.5]\ndim = 10\n")
    assert json.loads(shell("spectrum", "s.toml", "--json")[1])["spikes"] == [1, 0.5]
    code, out, err = shell(
        "compare",
        "--data",
        "x.npy",
        "--inputs",
        "data",
        "--runs",
        "3",
        "--end",
        "1",
        "--count",
        "5",
    )
    assert code == 0, err
    assert "`test_error` of 3 runs of real inputs" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict"], "exactly one of --spikes"),
        (
            ["predict", "--spikes", "1", "--power-law", "1", "--dim", "9"],
            "--spikes and --power-law",
        ),
        (["predict", "--spikes", "1,x", "--dim", "9"], "`spikes` must be numbers such as"),
        (["predict", "--spikes", "1"], "--spikes needs --dim"),
        (["predict", "--spikes", "-1", "--dim", "9"], "`spikes` must not be negative, got -1"),
        (["predict", "--spikes", "nan", "--dim", "9"], "`spikes` must be finite, got nan"),
        (
            ["predict", "--spikes", "1", "--dim", "2"],
            "`hidden` must be at most the number of modes, 2",
        ),
        (["predict", *SMALL[:4], "--hidden", "0"], "`hidden` must be at least 1, got 0"),
        (["predict", *SMALL, "--lr", "0"], "`lr` must be positive, got 0"),
        (["predict", *SMALL, "--lr-bias", "-1"], "`lr_bias` must be zero or positive, got -1"),
        (["predict", *SMALL, "--lr-encoder", "inf"], "`lr_encoder` must be finite"),
        (["predict", *SMALL, "--times", "0,2,1"], "`times` must increase, got 1 after 2"),
        (["predict", *SMALL, "--times", "-1,2"], "`times` must not be negative, got -1"),
        (["predict", *SMALL, "--times", ""], "`times` must not be empty"),
        (["predict", *SMALL, "--activation", "rleu"], "did you mean 'relu'"),
        (["predict", *SMALL, "-o", "no/where.nc"], "output folder 'no' does not exist"),
        (["predict", *SMALL, "--plot", "a.gif"], "`plot` must end in one of .png"),
        (["predict", *SMALL, "-o", "a.png", "--plot", "a.png"], "are the same file"),
        (["predict", *SMALL, "--max-steps", "3"], "max_steps"),
        (["predict", *SMALL, "--count", "0"], "`count` must be at least 2, got 0"),
        (["predict", *SMALL, "--bins", "4"], "--bins has no meaning beside --spikes"),
        (["predict", *SMALL, "--rule", "ojo"], "did you mean 'oja'"),
        (["predict", *SMALL, "--rule", "oja"], 'the autoencoder needs activation="linear", tied=T'),
        (["predict", *SMALL, "--rule", "hebb", "--truncated"], "--truncated has no meaning beside"),
        (["predict", *SMALL, "--rule", "oja", "--lr-bias", "1"], "--lr-bias has no meaning beside"),
        (["predict", *SMALL, "--tied", "--truncated"], "`truncated` SGD is for untied weights"),
        (["predict", *SMALL, "--truncated", "--output-bias"], "can't train an `output_bias`"),
        (["predict", *SMALL, "--tied", "--lr-decoder", "1"], "`lr_decoder` must not be given"),
        (["predict", *SMALL, "--tied", "--encoder-std", "1"], "`encoder_std` must not be given"),
        (["predict", *SMALL, "--gradient", "encoder"], "is for tied weights"),
        (["predict", *SMALL, "--gain", "2"], "needs tied=True"),
        (["predict", *SMALL, "--tied", "--gain", "0"], "`gain` must be positive, got 0"),
        (["predict", *SMALL, "--noise", "-1"], "`noise` must be zero or positive, got -1"),
        (["predict", *SMALL, "--schedule", "step:1"], "must be like step:50=0.1,100=0.01"),
        (["predict", *SMALL, "--schedule", "step:1=-1"], "`factors` must be zero or positive"),
        (["predict", *SMALL, "--schedule", "cosine"], "must be like cosine:END"),
        (["predict", *SMALL, "--schedule", "cosin:1"], "did you mean 'cosine'"),
        (["predict", *SMALL, "--schedule", "power-law:a"], "`schedule` must be numbers"),
        (["predict", *SMALL, "--members", "0"], "`members` must be at least 1, got 0"),
        (["predict", *SMALL, "--tied", "--diffusion"], "`diffusion` is for untied weights"),
        (["predict", *SMALL, "--plot", "a.png", "--plot-overlaps", "a.png"], "are the same file"),
        (["validate", "--row", "Oia"], "did you mean 'Oja'"),
        (["validate", "-o", "no/where"], "output folder 'no' does not exist"),
        (["predict", "--dim", "2.5"], "Invalid value for '--dim'"),
        (["predict", "--spkes", "1"], "No such option: --spkes, did you mean --spikes?"),
        (["predict", "--K", "3"], "No such option: --K, did you mean --hidden?"),
        (["predict", "--spikes", "1", "0.6", "0.3"], "separate values by commas: --spikes 1,0.6,0"),
        (["sweep", "--grid", "lr=1", "2"], "separate values by commas: --grid lr=1,2"),
        (["predict", "--lr", "1", "2"], "--lr takes one value, got '1,2'"),
        (["predict", "--spikes", "1", "--spikes", "0.6"], "--spikes is given 2 times: give it on"),
        (["predict", "--tied", "--no-tied"], "--tied is given 2 times: give it once"),
        (["predict", *SMALL, "--plot", "a.png", "--plot-overlaps", "./a.png"], "the same file"),
        (["predict", *SMALL, "-o", "a.txt"], "output 'a.txt' must end in .nc or .csv"),
        (["sweep", *SMALL, "--grid", "lr=1", "-o", "a.csv"], "output 'a.csv' must end in .nc"),
        (["predict", *SMALL, "-o", ""], "`output` must not be empty"),
        (["predict", ""], "the name of the file of settings must not be empty"),
        (["predict", *SMALL, "--lr-bias", "9" * 400], "`lr_bias` must be finite, got inf"),
        (["predict", *SMALL, "--seed", "9" * 400], "`seed` must be at most 9223372036854775807"),
        (["predict", "--spikes", "1", "--dim", "9" * 5000], "is not a whole number"),
        (["predict", "--spikes", "1", "--dim", "1e30"], "`dim` must be at most 9007199254740992"),
        (["predict", "--spikes", "1", "--dim", "9", "--hidden", "1e9"], "the number of modes, 9"),
        (["predict", *SMALL, "--count", "1e12"], "needs more memory than there is"),
        (["simulate", *SMALL, "--runs", "1e9"], "give fewer `runs`"),
        (["predict", "--data", "/"], "'/' is a folder, expected a file"),
        (["predict", "/"], "'/' is a folder, expected a file"),
        (["plot", "/"], "'/' is a folder, expected a file"),
        (["predict", "--dim", "100", "--spikes", ""], "`spikes` must not be empty"),
        (["sweep", "--dim", "100", "--spikes", "1", "--save", ""], "`save` must not be empty"),
        (["validate", "-o", ""], "`output` must not be empty"),
        (["plot", "none.nc"], "no file 'none.nc'"),
        (["plot", "none.nc", "--x", "lr"], "--x has no meaning for 'none.nc'"),
        (["plot", "none.zarr"], "there is no sweep at"),
        (["compare", *SMALL, "--runs", "1"], "`runs` must be at least 2"),
        (["predict", "none.toml"], "no file 'none.toml'"),
        (
            ["predict", *SMALL[:2], "--dim", "1.5"],
            "'1.5' is not a whole number, such as 1000 or 1e9",
        ),
        (["predict", *SMALL, "--count", "many"], "'many' is not a whole number"),
        (["predict", *SMALL, "--start", "3"], "`start` must be below `end`, got 3 and 2"),
        (["simulate", *SMALL, "--inputs", "data"], "--inputs data needs --data"),
        (["simulate", *SMALL, "--inputs", "gausian"], "did you mean 'gaussian'"),
        (["spectrum", "none.npy"], "no file 'none.npy'"),
        (["spectrum", "x.mat"], "no file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(shell, tmp_path, words, message):
    code, out, err = shell(*words)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_large_whole_numbers_may_have_an_exponent(shell, tmp_path):
    """Also in the file, where 1e9 is a float."""
    assert app._whole("1e9") == 10**9
    assert grids.build_grid({"grid": {"dim": "1e2,1e3"}}) == {"dim": [100, 1000]}
    assert grids.build_grid({"grid": {"seed": {"from": 0.0, "to": 2}}}) == {"seed": [0, 1, 2]}
    (tmp_path / "c.toml").write_text("[spectrum]\nspikes = [1.0, 0.6]\ndim = 1e2\n")
    code, out, err = shell("predict", "c.toml", "--hidden", "2", "--start", "1", "--end", "2")
    assert code == 0, err
    assert "D=100," in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[spectrum\n", "as TOML"),
        ("\N{BYTE ORDER MARK}[rule]\nlr = 'fast'\n", "must be a number, got 'fast'"),
        (f"[rule]\nlr = {'9' * 400}\n", "`lr` in [rule] is too large, 999"),
        ("[spectum]\n", "did you mean 'spectrum'"),
        ("[rule]\nweight_decy = 1\n", "did you mean 'weight_decay'"),
        ("[rule]\nlr = 'fast'\n", "`lr` in [rule] must be a number, got 'fast'"),
        ("[autoencoder]\nhidden = 2.5\n", "`hidden` in [autoencoder] must be a whole number"),
        ("lr = 1\n", "unknown section"),
    ],
)
def test_bad_toml_is_one_line(shell, tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    code, _, err = shell("predict", "c.toml")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.array([[1.0, np.nan], [0, 1], [2, 3]]), "`x` must be finite, got nan in row 0"),
        (lambda: np.ones((1, 3)), "at least two rows, got 1"),
        (lambda: np.ones(3), "must have shape (rows, dim), got shape (3,)"),
    ],
)
def test_bad_data_files_are_one_line(shell, tmp_path, make, message):
    np.save(tmp_path / "x.npy", make())
    code, _, err = shell("predict", "--data", "x.npy", "-o", "a.nc")
    assert code == 1
    assert message in err
    assert not (tmp_path / "a.nc").exists()


def test_existing_output_needs_overwrite(shell, tmp_path):
    (tmp_path / "a.nc").write_text("precious")
    code, _, err = shell("predict", *SMALL, "-o", "a.nc")
    assert code == 1
    assert "--overwrite" in err
    assert (tmp_path / "a.nc").read_text() == "precious"
    assert shell("predict", *SMALL, "-o", "a.nc", "--overwrite")[0] == 0


def test_no_command_imports_equinox_before_its_settings_are_made(tmp_path):
    """Imported earlier, its run-time errors keep compiled programs out of the cache."""
    code = (
        "import sys, odeae.shell.main as c\n"
        "from odeae.shell import curves, drawing, examples, sweeping\n"
        "def start():\n    assert 'equinox' not in sys.modules, sys.argv\n    raise SystemExit(7)\n"
        "for m in (curves, drawing, examples, sweeping): m.start_jax = start\n"
        "more = {'spectrum': ['x.npy'], 'sweep': ['--grid', 'lr=1']}\n"
        "commands = ('predict', 'simulate', 'compare', 'validate', 'demo')\n"
        "for command in (*commands, *more):\n"
        "    sys.argv = ['odeae', command, *more.get(command, [])]\n"
        "    try: c.main()\n    except SystemExit as stop: assert stop.code == 7, command\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_help_names_every_flag_and_starts_without_jax(command):
    code = f"import sys, odeae.shell.main as c; sys.argv = ['odeae', {command!r}, '--help']\n"
    code += "try: c.main()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"
    environment = os.environ | {"COLUMNS": "160"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    from odeae.shell import settings as config

    own = {"compare": [*config.RUNS, *config.OUTPUT], "sweep": config.SWEEP}[command]
    for setting in [*config.COMMON, *config.SOLVE, *own]:
        assert f"--{setting.name}" in result.stdout


@pytest.mark.slow
def test_demo_makes_a_figure_a_file_and_a_table(shell, tmp_path):
    pytest.importorskip("skimage")
    code, out, err = shell("demo")
    assert code == 0, err
    _check_demo(tmp_path / "demo", out)


@pytest.mark.slow
def test_demo_at_its_quick_size(shell, tmp_path):
    code, out, err = shell("demo", "--runs", "2", "--end", "0.5")
    assert code == 0, err
    _check_demo(tmp_path / "demo", out)
    assert shell("demo")[0] == 1  # results exist


def _check_demo(folder, out):
    assert (folder / "demo.png").read_bytes()[:4] == b"\x89PNG"
    theory, gaussian, real = (
        odeae.load(folder / "demo.nc", group=name) for name in ("theory", "gaussian", "real")
    )
    assert theory.problem.spectrum.dim == 1024
    check = odeae.compare(theory, gaussian)
    assert check.largest < 0.005 * theory.error[0]
    assert abs(check.deviation[0]) < 1e-4  # binning alone
    assert odeae.compare(theory, real).largest < 0.1 * theory.error[0]
    assert "patches, held out" in out
    assert real.test_error.shape == gaussian.error.shape


# One program for all sweeps here: compiling is what costs.
SWEPT = [*SMALL, "--activation", "linear", "--times", "0,1,2", "--save", "excess"]
GRID = ["--grid", "lr_encoder=0.1:10:3:log", "--grid", "seed=0:1"]


def test_the_best_of_several_ranks_is_the_one_of_least_error(capsys):
    """Excesses over two PCA errors don't compare: hidden=1 was "best" at twice the error."""
    values = {"final_excess": [0.01, 0.02], "status": np.zeros(2, int)}
    curves = xarray.Dataset(
        {name: (("hidden",), x) for name, x in values.items()},
        {"hidden": [1, 2], "time": [0.0, 5.0]},
    ).assign(error=(("hidden", "time"), [[0.8, 0.4], [0.8, 0.2]]))
    about = sweeping._about_sweep(curves, {"hidden": [1, 2]})
    assert about["best"] == {"hidden": 2, "final_error": 0.2, "final_excess": 0.02}
    sweeping._print_sweep(about, curves, 0, None)
    out = capsys.readouterr().out
    assert "best     hidden=2: error 0.2, 0.02 above PCA, at t=5\n         (the lowest error" in out
    about = sweeping._about_sweep(curves.rename(hidden="seed"), {"seed": [1, 2]})
    assert about["best"] == {"seed": 1, "final_excess": 0.01}


def test_sweep_from_the_shell_says_what_was_found_and_goes_on(shell, tmp_path, monkeypatch):
    words = ["sweep", *SWEPT, *GRID, "--store", "a.zarr"]
    code, out, err = shell(*words, "-o", "a.nc", "--plot", "a.png")
    assert code == 0, err
    assert "6 curves over lr_encoder (3) × seed (2)\nstatus   6 ok\nbest     lr_encoder=10, " in out
    assert "a.zarr (6 of them new)" in out
    assert "wrote a.nc, a.png" in out
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    stored, saved = xarray.open_zarr("a.zarr", chunks=None), xarray.load_dataset("a.nc")
    xarray.testing.assert_equal(stored.load(), saved)
    np.testing.assert_allclose(saved["excess"][..., -1], saved["final_excess"], rtol=1e-13)
    network = odeae.Autoencoder(2, "linear")
    problem = odeae.Problem(
        odeae.Spectrum.spiked([1, 0.6], 100), network, odeae.SGD(lr_encoder=10.0)
    )
    expected = odeae.predict(problem, odeae.random_state(problem, seed=1), [0.0, 1.0, 2.0])
    np.testing.assert_allclose(saved["error"].sel(lr_encoder=10, seed=1), expected.error, rtol=1e-4)

    code, out, err = shell(*words, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["status"] == {"ok": 6}
    assert result["best"]["final_excess"] == float(saved["final_excess"].min())

    def refuse(*args):
        raise AssertionError("opened")

    monkeypatch.setattr(workers, "_loky", refuse)
    assert "nothing was left to do" in shell(*words, "--workers", "2")[1]
    for more, message in (
        (["--rtol", "1e-5"], "'a.zarr' holds another sweep: `rtol`: stored 1e-06, now 1e-05"),
        (["-o", "a.nc"], "output file 'a.nc' exists"),
    ):
        code, out, err = shell(*words, *more)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert message in err.replace(str(tmp_path) + "/", "")


def test_sweep_takes_its_grid_from_a_file_and_flags_override_it(tmp_path):
    (tmp_path / "c.toml").write_text(
        "[spectrum]\nspikes = [1.0, 0.6]\ndim = 100\n[rule]\nlr = 2\n"
        "[sweep]\nzip = true\nsave = ['Q1']\nworkers = 2\n[sweep.grid]\nlr = [1, 0.5]\n"
        "weight_decay = { from = 1e-4, to = 1e-2, count = 3, log = true }\n"
        "seed = { from = 3, to = 5 }\nactivation = ['erf', 'relu']\ntied = [true, false]\n"
        "[sweep.slurm]\ntimeout_min = 60\n"
    )
    settings = [*config.COMMON, *config.SWEEP]

    def read(**flags):
        return config.read(str(tmp_path / "c.toml"), settings, flags)

    values = read()
    assert (values["zip"], values["save"], values["workers"]) == (True, ["Q1"], 2)
    grid = grids.build_grid(values)
    np.testing.assert_allclose(grid.pop("weight_decay"), [1e-4, 1e-3, 1e-2], rtol=1e-12)
    assert grid == {
        "lr": [1.0, 0.5],
        "seed": [3, 4, 5],
        "activation": ["erf", "relu"],
        "tied": [True, False],
    }
    with pytest.raises(ValueError, match="give only one of --workers, --slurm"):
        grids.build_pool(values)
    values = read(
        dask="tcp://a:1", grid=["lr=0.1:0.3:3,seed=1,2", "schedule=cosine:5;step:1=0.5,2=0.1"]
    )
    assert [values[name] for name in ("workers", "slurm", "dask")] == [None, None, "tcp://a:1"]
    grid = grids.build_grid(values)
    np.testing.assert_allclose(grid["lr"], [0.1, 0.2, 0.3])
    assert grid["seed"] == [1, 2]
    assert grid["schedule"] == ["cosine:5", "step:1=0.5,2=0.1"]
    values = read(grid=["spikes=1,0.6;1,0.3", "tied=yes,no"])
    assert grids.build_grid(values)["spikes"] == ["1,0.6", "1,0.3"]
    assert grids.build_grid(values)["tied"] == [True, False]


def test_slurm_gets_its_parameters_in_their_types(monkeypatch):
    given = {}
    monkeypatch.setattr(workers, "slurm_pool", lambda folder, **kw: given.update(kw, at=folder))
    flags = {"slurm": ["cluster=local,timeout_min=60,folder=logs", "slurm_use_srun=false"]}
    grids.build_pool(config.read(None, config.SWEEP, flags))
    want = {"cluster": "local", "timeout_min": 60, "slurm_use_srun": False, "at": "logs"}
    assert given == want


def test_every_number_of_a_sweep_is_traced_and_files_are_read_once(tmp_path, monkeypatch):
    """A thousand lanes cost one call of `build`; a worker needs neither the file nor the basis."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 6))
    np.save("x.npy", x)
    numbers = {
        "bulk": [1.0, 2.0], "gain": [1.0, 2.0], "noise": [0.0, 0.5], "lr": [1.0, 2.0],
        "lr_encoder": [1.0, 2.0], "lr_decoder": [1.0, 2.0], "lr_bias": [1.0, 2.0],
        "weight_decay": [0.0, 1.0], "encoder_std": [0.1, 1.0], "decoder_std": [0.1, 1.0],
        "initial_bias": [0.0, 1.0], "seed": [0, 1], "power_law": [1.0, 2.0],
    }  # fmt: skip
    spiked = {"spikes": "1,0.6", "dim": 10, "hidden": 2, "bias": True}
    cases = [
        (spiked, ("bulk", "noise", "lr", "lr_encoder", "lr_decoder", "lr_bias", "seed")),
        (spiked, ("weight_decay", "encoder_std", "decoder_std", "initial_bias")),
        (spiked | {"tied": True}, ("gain", "lr", "decoder_std")),
        ({"dim": 50, "n_spikes": 2, "bins": 3}, ("power_law", "seed")),
        ({"data": "x.npy"}, ("lr", "seed")),
    ]
    for flags, swept in cases:
        values = config.read(None, config.COMMON, flags)
        build = grids.Build.of(values, {})
        columns = {name: np.array(numbers[name]) for name in swept}
        first = {name: column[0] for name, column in columns.items()}
        assert traceable(build, columns, first) == swept
    values = config.read(None, config.COMMON, {"data": "x.npy", "hidden": 2})
    build = grids.Build.of(values, {"bins": [1, 2]})
    os.remove("x.npy")
    build = cloudpickle.loads(cloudpickle.dumps(build))
    spectrum, expected = build(bins=2)[0].spectrum, odeae.Spectrum.from_data(x, bins=2)
    np.testing.assert_array_equal(spectrum.bulk, expected.bulk)
    np.testing.assert_array_equal(spectrum.spikes, expected.spikes)
    assert spectrum.basis is None


@pytest.mark.slow
def test_sweep_in_workers_gives_the_same(shell):
    words = ["sweep", *SWEPT, *GRID]
    code, _, err = shell(*words, "-o", "a.nc")
    assert code == 0, err
    code, _, err = shell(*words, "-o", "b.nc", "--workers", "1", "--chunk", "3", "--progress")
    assert code == 0, err
    assert "6/6" in err
    a, b = (xarray.load_dataset(name) for name in ("a.nc", "b.nc"))
    np.testing.assert_allclose(a["error"], b["error"], rtol=1e-9)


def test_a_large_store_goes_to_a_file_in_pieces(tmp_path, monkeypatch):
    pytest.importorskip("dask")
    size = 2**16
    variables = {
        "error": Variable(("time",), (size,), "float64", {}),
        "status": Variable((), (), "int8", {}),
    }
    layout = Layout({"lane": 64}, (2,), variables, {}, {})
    with open_store(tmp_path / "a.zarr", layout) as store:
        for i in range(layout.n_chunks):
            error = np.broadcast_to([[2.0 * i], [2.0 * i + 1.0]], (2, size)).copy()
            store.write(i, {"error": error, "status": np.zeros(2, "int8")})
    curves = xarray.open_zarr(tmp_path / "a.zarr", chunks=None)
    assert output.in_pieces(curves) is curves
    monkeypatch.setattr(output, "_LARGE", 2**20)
    small = curves.isel(time=slice(9)).load()
    assert output.in_pieces(small) is small
    tracemalloc.start()
    output.in_pieces(curves).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < curves.nbytes / 2
    with xarray.open_dataset(tmp_path / "a.nc") as saved:
        np.testing.assert_array_equal(saved["error"][:, -1], np.arange(64.0))
        xarray.testing.assert_equal(saved["status"], curves["status"])


def test_an_interrupted_sweep_says_how_to_go_on(shell, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "sweep", stop)
    code, out, err = shell("sweep", *SMALL, *GRID, "--store", "a.zarr")
    assert (code, out) == (130, "")
    want = "0 completed curves are kept in 'a.zarr': run the same command to go on\n"
    assert err == f"odeae: interrupted, {want}"


def test_a_sweep_without_a_finished_curve_fails_and_is_kept(shell, tmp_path):
    words = [*SWEPT, *GRID, "--max-steps", "1"]
    code, out, err = shell("sweep", *words, "-o", "a.nc", "--plot", "a.png")
    assert code == 1
    assert "status   6 budget" in out
    assert "no curve finished; the first stopped at t=" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to sweep: give --grid NAME=VALUES or a table [sweep.grid]"),
        (["--grid", "lr_encder=1"], "can't sweep 'lr_encder': expected one of"),
        (["--grid", "rtol=1"], "can't sweep 'rtol'"),
        (["--grid", "lr"], "--grid must be NAME=VALUES, got 'lr'"),
        (["--grid", "lr="], "`lr` must be swept over at least one value, got none"),
        (["--grid", "lr=a,b"], "`lr` must be swept over numbers, got 'a'"),
        (["--grid", "seed=0.5"], "`seed` must be swept over whole numbers, got '0.5'"),
        (["--grid", "tied=maybe"], "`tied` must be swept over true or false, got 'maybe'"),
        (["--grid", "lr=1,nan"], "`grid['lr']` must be finite, got nan at index 1"),
        (["--grid", "lr=1,1"], "`grid['lr']` must hold each value once"),
        (["--grid", "lr=1,-1"], "build(lr=-1) raised ValueError: `lr` must be positive, got -1"),
        (["--grid", "lr=1", "--grid", "lr=2"], "--grid gives 'lr' twice"),
        (["--grid", "lr=1,2", "--lr", "3"], "`lr` is swept, and also given a value"),
        (["--grid", "lr=1:2"], "a range of `lr` must say count as well"),
        (["--grid", "lr=1:2:3:lin"], "a range of `lr` must be FROM:TO:COUNT"),
        (["--grid", "lr=2:1:3"], "a range of `lr` must be finite and go up, got 2 to 1"),
        (["--grid", "lr=0:1:3:log"], "a range of `lr` with log must be positive, got 0"),
        (["--grid", "lr=1:2:1"], "a range of `lr` must have a count from 2 to 10000000, got 1"),
        (["--grid", "lr=1:2:x"], "`count of the range of lr` must be swept over whole numbers"),
        (["--grid", "seed=0:4:2"], "a range of `seed` holds every whole number"),
        (["--grid", "lr=1,2", "--grid", "seed=1", "--zip"], "must have equally many values"),
        (["--grid", "lr=1", "--save", "Q2"], "unknown `save` 'Q2'"),
        (["--grid", "lr=1", "--store", "no/a.zarr"], "the folder 'no' of the store does not exist"),
        (["--grid", "lr=1", "-o", "no/a.nc"], "output folder 'no' does not exist"),
        (["--grid", "lr=1", "-o", "a.nc", "--store", "a.nc"], "are the same file"),
        (["--grid", "lr=1,-1", "--dask", "tcp://127.0.0.1:9"], "`lr` must be positive, got -1"),
        (["--grid", "lr=1", "--save", "Q2", "--slurm", "cluster=lokal"], "unknown `save` 'Q2'"),
        (["--grid", "lr=1", "--store", "a.zarr", "--workers", "0"], "`workers` must be at least"),
        (["--grid", "lr=1", "--workers", "0"], "`workers` must be at least 1, got 0"),
        (["--grid", "lr=1", "--workers", "2", "--devices"], "give only one of --workers, --dev"),
        (["--grid", "lr=1", "--dask", "nowhere"], "nowhere"),
        (["--grid", "lr=1", "--diffusion"], "`diffusion` is for `odeae predict`"),
        (["--grid", "lr=1", "--slurm", "cluster=lokal"], "`cluster` must be 'slurm' or 'local'"),
    ],
)
def test_bad_sweeps_are_one_line_and_nothing_is_written(shell, tmp_path, words, message):
    code, out, err = shell("sweep", *SMALL, *words)
    assert code == 1
    assert message in err.replace(str(tmp_path) + "/", "").replace(str(tmp_path), "")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid = 3", "grid must be a table, [sweep.grid], got 3"),
        ("[sweep.grid]\nlr = 1", "must be swept over a list or a table with from, to and count"),
        ("[sweep.grid]\nlr = []", "must be swept over at least one value, got none"),
        ("[sweep.grid]\nlr = { from = 1, too = 2 }", "did you mean 'to'"),
        ("[sweep.grid]\nseed = [0.5]", "must be swept over whole numbers, got 0.5"),
        ("[sweep.grid]\nrule = [1]", "must be swept over texts, got 1"),
    ],
)
def test_bad_sweeps_in_a_file_are_one_line(shell, tmp_path, text, message):
    (tmp_path / "c.toml").write_text(f"[sweep]\n{text}\n")
    code, _, err = shell("sweep", "c.toml", *SMALL)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_an_interrupt_of_simulate_keeps_the_runs(shell, monkeypatch):
    """It once said "nothing half-written", and all was lost: --resume goes on to the last bit."""
    from odeae.simulation import sgd as simulation

    advance, flags = simulation._advance, [*SMALL[:-2], "--runs", "2", "--times", "0,1,2,4"]

    def once(rule, network, weights, x, scale, noise, deviation, first, span):
        if first > 0:
            raise KeyboardInterrupt
        return advance(rule, network, weights, x, scale, noise, deviation, first, span)

    with monkeypatch.context() as patched:
        patched.setattr(simulation, "_advance", once)
        for name in ("simulate", "compare"):
            code, _, err = shell(name, *flags, "-o", "half.nc", "--overwrite")
            assert code == 130
            kept = "kept in 'half.nc': go on with odeae simulate --resume half.nc"
            assert f"interrupted, the runs so far are {kept}" in err
        code, _, err = shell("simulate", *flags)
        assert (code, err) == (130, "odeae: interrupted, nothing half-written\n")
    half = odeae.load("half.nc")
    np.testing.assert_array_equal(half.times, [0.0, 1.0, 2.0, 2.56])
    code, _, err = shell("simulate", *flags, "--resume", "half.nc", "-o", "rest.nc")
    assert code == 0, err
    assert shell("simulate", *flags, "-o", "half.nc")[0] == 1  # it exists
    assert shell("simulate", *flags, "-o", "half.nc", "--overwrite")[0] == 0
    rest, whole = odeae.load("rest.nc"), odeae.load("half.nc")
    np.testing.assert_array_equal(rest.test_error[:, -1], whole.test_error[:, -1])
    np.testing.assert_array_equal(half.error[:, :3], whole.error[:, :3])


def test_resume_goes_through_data_once_without_being_told_again(shell):
    """Without --once, which the first command had, the second drew rows with replacement."""
    x = np.random.default_rng(0).standard_normal((200, 12)) * np.linspace(2.0, 0.5, 12)
    np.savez("x.npz", train=x, test=x[:3])
    flags = ["--data", "x.npz:train", "--inputs", "data", "--hidden", "2"]
    once = ["--runs", "2", "--once", "--test-samples", "9"]
    shell("simulate", *flags, *once, "--times", "0,5", "-o", "half.nc")
    code, _, err = shell(
        "simulate", *flags, "--times", "12", "--resume", "half.nc", "-o", "rest.nc"
    )
    assert code == 0, err
    shell("simulate", *flags, *once, "--times", "0,5,12", "-o", "whole.nc")
    rest, whole = odeae.load("rest.nc"), odeae.load("whole.nc")
    np.testing.assert_array_equal(rest.test_error[:, -1], whole.test_error[:, -1])
    code, _, err = shell("simulate", *flags, "--resume", "whole.nc", "--lr", "2", "--end", "14")
    assert "another rule lr: 1.0, got 2.0" in err
    for name, message in (
        ("x.npz", "it holds the arrays train, test: choose one of them, as x.npz:train"),
        ("x.npz:tran", "choose one of them, as x.npz:train, got 'tran'"),
        ("y.npz:train", "no file 'y.npz'"),
    ):
        code, _, err = shell("spectrum", name)
        assert code == 1
        assert message in err


def test_patches_are_written_for_the_examples_of_the_readme(shell):
    pytest.importorskip("skimage")
    code, out, err = shell("patches", "p.npy", "--size", "8", "--stride", "40")
    assert code == 0, err
    x = np.load("p.npy")
    np.testing.assert_array_equal(x, odeae.natural_patches(8, 40))
    assert f"wrote p.npy: {len(x)} patches of 8×8 pixels, D = 64" in out
    np.testing.assert_allclose(x.mean(axis=1), 0.0, atol=1e-12)
    for words, message in (
        (["p.npy"], "exists"),
        (["p.csv"], "the patches are saved as .npy, got 'p.csv'"),
        (["q.npy", "--size", "400"], "`size` must be at most 300, the side of image "),
        (["q.npy", "--size", "1"], "`size` must be at least 2, got 1"),
        (["q.npy", "--size", "64", "--stride", "1"], "GiB; give a larger `stride`"),
        (["q.npy", "none"], "no folder of images 'none'"),
        (["q.npy", "."], "'.' holds no images: expected files ending in .png, .jpg"),
        (["q.npy", "p.npy"], "'p.npy' is no image: expected files ending in .png"),
    ):
        code, _, err = shell("patches", *words)
        assert code == 1
        assert message in err


def test_patches_of_a_folder_of_ones_own_images(shell):
    io = pytest.importorskip("skimage.io")
    rng = np.random.default_rng(0)
    grey, coloured = rng.integers(0, 256, (20, 30)), rng.integers(0, 256, (16, 16, 3))
    Path("mine").mkdir()
    for name, image in (("grey", grey), ("coloured", coloured)):
        io.imsave(f"mine/{name}.png", image.astype(np.uint8), check_contrast=False)
    Path("mine/notes.txt").write_text("no image")
    code, _, err = shell("patches", "x.npy", "mine", "--size", "8", "--stride", "4")
    assert code == 0, err
    x = np.load("x.npy")
    assert x.shape == (3 * 3 + 4 * 6, 64)
    np.testing.assert_allclose(x.var(axis=0).mean(), 1.0)
    want = grey[4:12, 8:16].ravel() / 255.0
    np.testing.assert_allclose(np.corrcoef(x[9 + 6 + 2], want)[0, 1], 1.0)
    images = [coloured.astype(np.uint8), grey / 255.0]
    np.testing.assert_allclose(odeae.image_patches(images, 8, 4), x, atol=1e-12)
    for images, message in (
        ([], "must be a folder or a list of images"),
        (3.0, "must be a folder or a list of images, got 3.0"),
        (grey.astype(float), r"grey \(H, W\) or coloured .* got shape \(30,\) of image 0"),
        ([np.full((9, 9), np.nan)], "`images` must be finite"),
        ([np.ones((9, 9))], "must have some contrast"),
    ):
        with pytest.raises(ValueError, match=message):
            odeae.image_patches(images, 8)
