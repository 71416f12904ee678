"""What README shows runs as it stands there, in the order in which it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import odeae

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands():
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("odeae ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_name_exists():
    names = set(re.findall(r"\bodeae\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)", README))
    assert len(names) > 30
    for name in names:
        value = odeae
        for part in name.split("."):
            value = getattr(value, part)
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_every_option_exists():
    """Each line is read as the shell reads it, without doing anything."""
    from typer.main import get_command

    from odeae.shell.main import app

    shell = get_command(app)
    lines = commands()
    assert len(lines) > 10
    for name, *words in lines:
        command = shell.commands[name]
        with command.make_context(name, list(words)) as context:
            assert context.params


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    script = "import matplotlib; matplotlib.use('Agg')\n" + "\n".join(blocks("python"))
    for words in commands():
        if words[:2] == ["patches", "patches.npy"] and "FOLDER" in words:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "odeae", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (words, done.stderr)
        assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("curve.png", "overlaps.png", "band.png", "sweep.png", "plateaus.png"):
        assert Path(name).stat().st_size > 10_000
