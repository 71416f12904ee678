"""A fresh interpreter, as a user's script has it: x64 off, no type checker, warnings are errors."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(_HERE.parent), str(_HERE)])

_ERRORS = """
import json, sys
{setup}
said = {{}}
for line in json.loads(sys.stdin.read()):
    try:
        said[line] = "no error, but " + repr(eval(line))
    except Exception as error:
        said[line] = type(error).__name__ + ": " + str(error)
print(json.dumps(said))
"""


def run(script: str, stdin: str = "", flags: str = "") -> str:
    """Run `script` and return what it prints; `flags`: those of XLA."""
    env = {**os.environ, "PYTHONPATH": PATHS, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    env.pop("JAX_ENABLE_X64", None)
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, input=stdin, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors(setup: str, lines) -> dict[str, str]:
    """What each of `lines` says when it is evaluated after `setup`: "TypeOfError: message".

    Compiled as these tests are, as that is quicker and no message depends on it.
    """
    script, flags = _ERRORS.format(setup=setup), os.environ.get("XLA_FLAGS", "")
    return json.loads(run(script, json.dumps(list(lines)), flags))


def named_in_one_line(message: str, pattern: str, kind: str = "ValueError") -> None:
    """Check what `errors` returned: the kind of error, `pattern` in its message, no line break."""
    assert re.match(f"{kind}: .*{pattern}", message), message
    assert "\n" not in message


def before_each_write(folder, action) -> None:
    """Call action(n, event) before the n-th time that this process changes a file in `folder`.

    `event` is Python's name for it. What is raised is what the system would have said. It stays
    for the rest of the process.
    """
    count = itertools.count(1)

    def hook(event, args):
        changes = event in ("os.rename", "os.remove", "os.rmdir")
        if event == "os.mkdir":  # some make a folder again to be sure that it's there
            changes = not os.path.exists(args[0])
        elif event == "open" and isinstance(args[0], str | os.PathLike):
            changes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        # Paths that aren't whole are those of `shutil.rmtree`, which has the folder open.
        if changes and (not os.path.isabs(args[0]) or os.fspath(args[0]).startswith(str(folder))):
            action(next(count), event)

    sys.addaudithook(hook)


class Tensor:
    """Stands for a tensor of torch, which isn't installed here: rows of it are not NumPy's."""

    dtype = "torch.float64"

    def __init__(self, x, needs_gradient=False):
        self.x, self.shape, self.needs_gradient = x, x.shape, needs_gradient

    def __array__(self, dtype=None, copy=None):
        if self.needs_gradient:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self.x

    def __getitem__(self, index):
        return Tensor(self.x[index])

    def detach(self):
        return Tensor(self.x)


class Table:
    """Stands for a table of polars: indexed by columns, to_numpy with what it holds."""

    def __init__(self, x, columns):
        self.x, self.shape, self.columns = x, x.shape, columns

    def __getitem__(self, name):
        raise KeyError(name)

    def to_numpy(self):
        return self.x
