"""The shell, as a newcomer and as a script would use it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import odeae
from odeae import cli

SMALL = ["--spikes", "1,0.6", "--dim", "100", "--hidden", "2", "--end", "2"]


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_start_jax", lambda: None)  # conftest has set the same

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["odeae", *map(str, words)])
        code = 0
        try:
            cli.main()
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


def test_every_rule_has_its_flags(shell, tmp_path):
    """What the flags say is what the problem is; a file can say the same."""
    (tmp_path / "c.toml").write_text(
        "[spectrum]\nspikes = [1.0, 0.6]\ndim = 100\n[autoencoder]\nhidden = 2\ntied = true\n"
        "gain = 1.5\nnoise = 0.5\nbias = true\noutput_bias = true\n[times]\nend = 2\n"
        "[rule]\ngradient = 'decoder'\nschedule = 'step:1=0.5,1.5=0.1'\n"
    )
    network = odeae.Autoencoder(2, tied=True, bias=True, output_bias=True, gain=1.5)
    rule = odeae.SGD(gradient="decoder", schedule=odeae.StepSchedule([1.0, 1.5], [0.5, 0.1]))
    linear = odeae.Autoencoder(2, "linear", tied=True)
    sanger = odeae.Sanger(2.0, schedule=odeae.CosineSchedule(5.0, 0.1))
    flags = ["--rule", "sanger", "--tied", "--activation", "linear", "--schedule", "cosine:5,0.1"]
    truncated = odeae.SGD(truncated=True, schedule=odeae.PowerLawSchedule(0.5, 3.0))
    for words, (ae, want, noise) in (
        (["c.toml"], (network, rule, 0.5)),
        ([*SMALL, *flags, "--lr", "2"], (linear, sanger, 0.0)),
        (
            [*SMALL, "--truncated", "--schedule", "power-law:0.5,3"],
            (odeae.Autoencoder(2), truncated, 0.0),
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


def test_flags_override_toml(shell, tmp_path):
    (tmp_path / "c.toml").write_text(
        "[spectrum]\nspikes = [1.0, 0.6]\ndim = 100\n[autoencoder]\nhidden = 2\n"
        "[rule]\nlr = 0.5\n[times]\ntimes = [0, 1]\n[simulate]\nruns = 3\n"
    )
    _, from_toml, _ = shell("predict", "c.toml", "--json")
    _, from_flags, _ = shell("predict", *SMALL, "--times", "0,1", "--lr", "0.5", "--json")
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


def test_resume_takes_the_runs_of_a_comparison_but_no_others(shell):
    shell("compare", *SMALL, "--runs", "2", "--count", "3", "-o", "both.nc")
    code, _, err = shell("simulate", *SMALL, "--end", "3", "--resume", "both.nc")
    assert code == 0, err
    for flags, message in (
        (["--runs", "5"], "--runs 5 can't change with --resume: the saved runs have 2"),
        (["--seed", "1"], "--seed 1 can't change with --resume"),
        (["--lr", "0.5"], "have another rule than these settings"),
        (["--activation", "relu"], "have another autoencoder than"),
    ):
        code, _, err = shell("simulate", *SMALL, "--end", "3", "--resume", "both.nc", *flags)
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
        "import os, signal, sys, odeae.cli as c, odeae.files as f\n"
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
        (["predict", *SMALL, "--hidden", "0"], "`hidden` must be at least 1, got 0"),
        (["predict", *SMALL, "--lr", "0"], "`lr` must be positive, got 0"),
        (["predict", *SMALL, "--lr-bias", "-1"], "`lr_bias` must be zero or positive, got -1"),
        (["predict", *SMALL, "--lr-encoder", "inf"], "`lr_encoder` must be finite"),
        (["predict", *SMALL, "--times", "0,2,1"], "`times` must increase, got 1 after 2"),
        (["predict", *SMALL, "--times", "-1,2"], "`times` must not be negative, got -1"),
        (["predict", *SMALL, "--times", ""], "`times` must hold at least one time"),
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
        (["predict", "--spkes", "1"], "No such option: --spkes"),
        (["compare", *SMALL, "--runs", "1"], "`runs` must be at least 2"),
        (["predict", "none.toml"], "no file 'none.toml'"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[spectrum\n", "as TOML"),
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
        "import sys, odeae.cli as c\n"
        "def start():\n    assert 'equinox' not in sys.modules, sys.argv\n    raise SystemExit(7)\n"
        "c._start_jax = start\n"
        "for command in ('predict', 'simulate', 'compare', 'validate', 'demo', 'spectrum'):\n"
        "    sys.argv = ['odeae', command] + (['x.npy'] if command == 'spectrum' else [])\n"
        "    try: c.main()\n    except SystemExit as stop: assert stop.code == 7, command\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_names_every_flag_and_starts_without_jax(tmp_path):
    code = "import sys, odeae.cli as c; sys.argv = ['odeae', 'compare', '--help']\n"
    code += "try: c.main()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"
    environment = os.environ | {"COLUMNS": "160"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    from odeae import config

    for setting in config.ALL:
        if setting not in config.ENSEMBLE:
            assert f"--{setting.name}" in result.stdout


@pytest.mark.slow
def test_demo_makes_a_figure_a_file_and_a_table(shell, tmp_path):
    pytest.importorskip("skimage")
    code, out, err = shell("demo")
    assert code == 0, err
    _check_demo(tmp_path / "demo", out)


def test_demo_at_its_quick_size(shell, tmp_path):
    code, out, err = shell("demo", "--runs", "2", "--end", "2")
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
