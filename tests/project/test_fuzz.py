"""The quick size of benchmarks/fuzz.py: random problems and wrong arguments, a few of each."""

from pathlib import Path

import plain

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


def test_random_problems(monkeypatch):
    """Numbers over many decades: NaN, status, PCA, descent, and the default against a tight solve.

    All of one shape, so that little is compiled.
    """
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz_checks as fuzz
    from fuzz_problems import SHAPES, Shape

    shape = SHAPES.index(Shape(1, 2, (), activation="linear"))
    blocks = [shape + turn * len(SHAPES) for turn in (4, 6, 8)]
    numbers = [block * fuzz.FEW + i for block in blocks for i in range(fuzz.FEW)]
    done = fuzz.predict(0, numbers, lambda number: None, ask=False)
    assert [(fault.what, fault.text) for fault in done.faults] == []
    assert done.compared >= 40


WRONG = f"""
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {BENCHMARKS!r})
import fuzz_bad
done = fuzz_bad.bad(0, range(int(sys.stdin.read())), lambda number: None, quick=True)
print(json.dumps([fault.what + ": " + fault.text for fault in done.faults]))
"""


def test_wrong_arguments():
    """Constructors and small functions refuse what is wrong, in one readable line of their own."""
    assert plain.run(WRONG, "200").strip() == "[]"
