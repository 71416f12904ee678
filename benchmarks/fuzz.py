"""Thousands of random problems and calls: no wrong answer without a word.

    python benchmarks/fuzz.py --count 20000 --workers 2 --report fuzz.json
    python benchmarks/fuzz.py --only sweep:4711            # one of them again, with its script

Kinds: `named`, cases that went wrong once; `predict`, `sweep`, `simulate`, `files`: valid problems
with numbers over many decades (fuzz_problems.py) and what must hold for each (fuzz_checks.py);
`oracle`: theory against SciPy over weights; `bad`: wrong arguments of everything public and of the
shell (fuzz_bad.py). Number n of a kind is the same problem whatever --count is; the report
says which are done, and the same call goes on, also with a larger --count. Exit code 1 for faults.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

# Share of each kind in --count, numbers of a block, which is done at once, and what a block's
# programs are shared by: the blocks of one residue are done by one process.
SHARES = {
    "sweep": 0.70,
    "predict": 0.14,
    "bad": 0.12,
    "files": 0.01,
    "simulate": 0.015,
    "oracle": 0.015,
}
SIZES = {"sweep": 64}
FEW = 16
PATIENCE = 1800.0  # seconds without a word from a process, which is then ended: something hangs


def prepare() -> None:
    """Keep compiled programs, as the shell does, before JAX is imported."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "odeae-fuzz"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("MPLBACKEND", "Agg")


def plan(kinds: list[str], count: int, start: int) -> list[tuple[str, int, int]]:
    """(kind, first, end) of every block: numbers `start` × share … (`start` + `count`) × share."""
    import fuzz_checks

    blocks = []
    for kind in kinds:
        size = SIZES.get(kind, FEW)
        if kind == "named":
            low, high, size = 0, len(fuzz_checks.NAMED), 1
        else:
            alone = len([k for k in kinds if k != "named"]) == 1
            share = 1.0 if alone else SHARES[kind]
            low, high = round(start * share / size) * size, round((start + count) * share)
        blocks += [(kind, n, min(n + size, high)) for n in range(low, high, size)]
    return blocks


def family(kind: str, first: int) -> tuple:
    """What the blocks that share compiled programs have in common."""
    from fuzz_problems import SHAPES

    if kind in ("sweep", "predict"):
        return "shape", first // SIZES.get(kind, FEW) % len(SHAPES)
    return kind, first // FEW % 6 if kind in ("simulate", "oracle", "bad") else 0


def do(kind: str, seed: int, first: int, end: int, say) -> dict:
    """The result of a block, in JSON's types; what breaks the fuzz run itself is a fault too."""
    import fuzz_bad
    import fuzz_checks

    begun = time.time()
    function = fuzz_bad.bad if kind == "bad" else getattr(fuzz_checks, kind)
    try:
        compared, faults = function(seed, list(range(first, end)), say)
    except Exception:
        text = traceback.format_exc()
        fault = fuzz_checks.Fault(first, "the fuzz run itself", text[-300:], text)
        compared, faults = 0, [fault]
    return {
        "kind": kind,
        "first": first,
        "end": end,
        "compared": int(compared),
        "faults": [fault._asdict() for fault in faults],
        "seconds": time.time() - begun,
    }


def work(pipe, seed: int) -> None:
    """A process: does families of blocks as they come, and says what it is at."""
    import gc

    import jax

    while (blocks := pipe.recv()) is not None:
        for kind, first, end in blocks:
            pipe.send((kind, first))
            pipe.send(do(kind, seed, first, end, lambda n, kind=kind: pipe.send((kind, n))))
        jax.clear_caches()
        gc.collect()
        pipe.send(None)


class Worker:
    """A process and what it is at."""

    def __init__(self, seed: int):
        self.seed, self.blocks = seed, []
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.seed), daemon=True)
        self.process.start()
        theirs.close()
        self.at, self.heard = ("-", 0), time.time()

    def give(self, blocks: list) -> None:
        self.blocks, self.heard = list(blocks), time.time()
        self.pipe.send(self.blocks)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def in_processes(blocks: list, seed: int, workers: int, record) -> None:
    """Do all families of blocks, in processes that are started again where one dies or hangs."""
    families = defaultdict(list)
    for kind, first, end in blocks:
        families[family(kind, first)].append((kind, first, end))
    waiting = sorted(families.values(), key=lambda x: -sum(end - first for _, first, end in x))
    busy = [Worker(seed) for _ in range(min(workers, len(waiting)))]
    try:
        for worker in busy:
            worker.give(waiting.pop(0))
        _attend(busy, waiting, record)
    finally:  # also after Ctrl-C
        for worker in busy:
            worker.end()


def _attend(busy: list[Worker], waiting: list, record) -> None:
    """Hear what the workers say, and give them more, until nothing is left."""
    while busy:
        ready = multiprocessing.connection.wait([w.pipe for w in busy], timeout=10.0)
        for worker in list(busy):
            if worker.pipe in ready:
                try:
                    said = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    said = "died"
                worker.heard = time.time()
            elif time.time() - worker.heard > PATIENCE:
                said = "hangs"
            else:
                continue
            if isinstance(said, dict):
                worker.blocks = [b for b in worker.blocks if b[1] != said["first"]]
                record(said)
            elif isinstance(said, tuple):
                worker.at = said
            elif isinstance(said, str):
                kind, number = worker.at
                worker.end()
                block = next((b for b in worker.blocks if b[1] <= number < b[2]), worker.blocks[0])
                fault = {
                    "number": number,
                    "what": said,
                    "text": f"the process {said}",
                    "script": "",
                }
                record({
                    "kind": kind, "first": block[1], "end": block[2], "compared": 0,
                    "faults": [fault], "seconds": 0.0,
                })  # fmt: skip
                rest = [b for b in worker.blocks if b != block]
                if rest:
                    waiting.insert(0, rest)
                worker.start()
                said = None
            if said is None and waiting:
                worker.give(waiting.pop(0))
            elif said is None:
                worker.end()
                busy.remove(worker)


def table(results: list[dict], kinds: list[str]) -> str:
    """Short tables: what was done, what it cost, what was found, and how to see one again."""
    lines = [
        "| kind | numbers | compared with a tight solve | seconds | faults |",
        "|---|---|---|---|---|",
    ]
    for kind in kinds:
        own = [r for r in results if r["kind"] == kind]
        sums = [sum(r["end"] - r["first"] for r in own), sum(r["compared"] for r in own)]
        sums += [round(sum(r["seconds"] for r in own)), sum(len(r["faults"]) for r in own)]
        lines.append(f"| {kind} | {' | '.join(map(str, sums))} |")
    found = defaultdict(list)
    for result in results:
        for fault in result["faults"]:
            found[result["kind"], fault["what"]].append(fault)
    if found:
        lines += ["", "| fault | count | for example | |", "|---|---|---|---|"]
    for (kind, what), faults in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1]))):
        text = " ".join(faults[0]["text"].split()).replace("|", "¦")[:160]
        lines.append(f"| {what} | {len(faults)} | {text} | `--only {kind}:{faults[0]['number']}` |")
    return "\n".join(lines)


def again(only: str, seed: int) -> int:
    """Do one number again, in this process, and print its faults and its script."""
    kind, _, number = only.partition(":")
    number, size = int(number), 1 if kind == "named" else SIZES.get(kind, FEW)
    first = number // size * size
    # A sweep's lane comes with its block, so that the program is the same.
    span = (first, first + size) if kind == "sweep" else (number, number + 1)
    result = do(kind, seed, *span, lambda n: None)
    faults = [f for f in result["faults"] if f["number"] == number] or result["faults"][:1]
    for fault in faults:
        print(f"{fault['what']}: {fault['text']}\n\n{fault['script']}\n")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="numbers of all kinds together")
    parser.add_argument("--start", type=int, default=0, help="where to begin, in the same units")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="named,predict,sweep,oracle,simulate,files,bad")
    parser.add_argument("--workers", type=int, default=2, help="0: in this process")
    parser.add_argument("--report", type=Path, help="JSON of all results; goes on with it")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="do one number again")
    given = parser.parse_args(argv)
    prepare()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.only:
        return again(given.only, given.seed)
    kinds = given.kinds.split(",")
    results = []
    if given.report and given.report.exists():
        old = json.loads(given.report.read_text())
        if old["seed"] != given.seed:
            parser.error(f"{given.report} is of seed {old['seed']}")
        results = old["results"]
    done = {(r["kind"], r["first"], r["end"]) for r in results}
    todo = [block for block in plan(kinds, given.count, given.start) if block not in done]
    begun = time.time()

    def record(result: dict) -> None:
        results.append(result)
        left = len(todo) - sum((r["kind"], r["first"], r["end"]) in wanted for r in results)
        name = f"{result['kind']}:{result['first']}"
        found = len(result["faults"])
        print(f"{name} {result['seconds']:.1f}s, {found} faults, {left} blocks left", flush=True)
        if given.report:
            temporary = given.report.with_suffix(".part")
            temporary.write_text(json.dumps({"seed": given.seed, "results": results}))
            temporary.replace(given.report)

    wanted = set(todo)
    if given.workers and todo:
        in_processes(todo, given.seed, given.workers, record)
    else:
        for kind, first, end in todo:
            record(do(kind, given.seed, first, end, lambda n: None))
    print(f"\n{table(results, kinds)}\n\n{time.time() - begun:.0f} s by the clock")
    return 1 if any(r["faults"] for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
