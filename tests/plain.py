"""A fresh interpreter, as a user's script has it: x64 off, no type checker, warnings are errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = str(Path(__file__).parent.parent)

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


def run(script: str, stdin: str = "") -> str:
    """Run `script` and return what it prints."""
    env = {**os.environ, "PYTHONPATH": _ROOT, "JAX_PLATFORMS": "cpu"}
    for name in ("JAX_ENABLE_X64", "XLA_FLAGS"):
        env.pop(name, None)
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, input=stdin, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors(setup: str, lines) -> dict[str, str]:
    """What each of `lines` says when it is evaluated after `setup`: "TypeOfError: message"."""
    return json.loads(run(_ERRORS.format(setup=setup), json.dumps(list(lines))))


def named_in_one_line(message: str, pattern: str, kind: str = "ValueError") -> None:
    """Check what `errors` returned: the kind of error, `pattern` in its message, no line break."""
    assert re.match(f"{kind}: .*{pattern}", message), message
    assert "\n" not in message
