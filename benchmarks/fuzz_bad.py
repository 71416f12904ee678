"""Wrong arguments for everything public, and for the shell: one readable line, or a sane answer."""

import contextlib
import decimal
import fractions
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from fuzz_checks import KINDS, Done, Fault, Say, complaint, first_line

import odeae
from odeae.shell import settings as config

TIMES = [0.0, 0.1, 0.5, 1.0]


class Named(NamedTuple):
    """An object of `names` that is made when it is needed."""

    name: str


class Call(NamedTuple):
    """A public function and the arguments of a call that succeeds."""

    name: str
    function: Any
    arguments: dict[str, Any]

    @property
    def quick(self) -> bool:
        """Whether it compiles nothing, or little."""
        return bool(QUICK.match(self.name)) and not any(
            isinstance(x, Named) for x in self.arguments.values()
        )


QUICK = re.compile(
    "Spectrum|Autoencoder|SGD|Oja|Sanger|Hebb|.*Schedule|Problem|"
    "log_times|load|linear.(fixed|equiv|optimal)|landscape.critical|spectrum"
)

# What people pass, and what nobody should: (text, value). A text is code, for the script.
HOSTILE = [
    "None", "True", "False", "''", "'x'", "'1.0'", "'erf'", "b'x'", "0", "-1", "1", "2", "3", "7",
    "1.5", "-0.5", "0.0", "-0.0", "1e-300", "5e-324", "1e300", "1e20", "np.nan", "np.inf",
    "-np.inf", "2**31", "2**62", "2**63", "2**64", "10**400", "-10**400", "1j", "[]", "()", "{}",
    "[1.0]", "[0.5, 0.25]", "[1, 2, 3]", "[[1.0]]", "[[1.0, 0.0], [0.0, 1.0]]", "[np.nan]",
    "[1.0, np.inf]", "[-1.0]", "[None]", "['a']", "[1.0, [2.0]]", "[1j]", "{1.0}", "{'a': 1}",
    "np.zeros(0)", "np.zeros((0, 3))", "np.ones(4)", "np.ones((2, 12))", "np.ones((12, 12))",
    "np.eye(12)", "np.ones((2, 2, 2))", "np.ones(3, np.float32)", "np.array([1, 2], np.int8)",
    "np.array([True, False])", "np.array(['a', 'b'])", "np.array([1, None], object)",
    "np.array(1.0)", "np.float32(0.5)", "np.int64(2)", "np.bool_(True)", "np.float64('nan')",
    "np.array('2020-01-01', 'datetime64[D]')", "np.ma.masked_array([1.0, 2.0], [True, False])",
    "np.array([1e308, 1e308])", "np.array([1 + 1j])", "jnp.ones(2)", "jnp.float32(1.0)",
    "jnp.array(2)", "decimal.Decimal('0.5')", "fractions.Fraction(1, 2)", "object()", "int", "len",
    "(lambda: 1)", "(lambda t: -1.0)", "(lambda t: np.nan)", "(lambda t: 'x')", "range(3)",
    "iter([1.0])", "slice(3)", "Path('x.nc')", "'/nonexistent/x.nc'", "'.'", "'x' * 5000",
    "'a\\nb'", "spectrum", "network", "problem", "state", "theory", "runs", "odeae.SGD()",
    "odeae.SGD", "odeae.Erf()", "odeae", "np", "np.tanh", "odeae.Status.OK",
    "[theory, runs]", "(1.0, 2.0)",
    "[0.0, 0.1, 0.1]", "[1.0, 0.0]", "[0.0, 5e-324]", "[0.0, 1e308]", "[1e-320, 1.0]",
    "other_problem", "other_state", "tied_state", "weights", "data", "data[:1]", "data.T",
    "data * np.nan", "data.astype(np.float32)", "data.tolist()", "np.asfortranarray(data)",
]  # fmt: skip
UNKNOWN = ["hidden", "K", "lr", "learning_rate", "std", "times", "colour", "verbose", "dim", "D"]


class _Names(dict):
    """What HOSTILE speaks of, made when it is asked for: some of it takes seconds to compile."""

    def __missing__(self, name: str) -> Any:
        if name not in _MADE:
            raise KeyError(name)
        self[name] = _MADE[name](self)
        return self[name]


def _random(n):
    return np.random.default_rng(0).standard_normal((40, 12))


_MADE: dict[str, Callable[[Any], Any]] = {
    "spectrum": lambda n: odeae.Spectrum.spiked([1.0, 0.6], dim=12),
    "network": lambda n: odeae.Autoencoder(2, "linear"),
    "problem": lambda n: odeae.Problem(n["spectrum"], n["network"]),
    "state": lambda n: odeae.random_state(n["problem"]),
    "theory": lambda n: odeae.predict(n["problem"], n["state"], TIMES),
    "runs": lambda n: odeae.simulate(n["problem"], n["state"], TIMES, runs=3, test_samples=5),
    "data": _random,
    "other_problem": lambda n: odeae.Problem(
        odeae.Spectrum.spiked([1.0], dim=30), odeae.Autoencoder(1)
    ),
    "other_state": lambda n: odeae.random_state(n["other_problem"]),
    "tied_state": lambda n: odeae.random_state(
        odeae.Problem(n["spectrum"], odeae.Autoencoder(2, "linear", tied=True))
    ),
    "weights": lambda n: odeae.draw_weights(n["problem"], n["state"]),
    "table": lambda n: odeae.sweep(build, {"lr": [0.5, 1.0], "seed": [0, 1]}, TIMES),
    "dynamics": lambda n: odeae.mode_map(n["theory"]),
    "one": lambda n: {"a": n["theory"]},
}
COMPILED = re.compile("theory|runs|table|dynamics")


@lru_cache
def names() -> _Names:
    """One such namespace."""
    return _Names(odeae=odeae, np=np, jnp=jnp, decimal=decimal, fractions=fractions, Path=Path)


def build(lr, seed):
    """A sweep's."""
    problem = odeae.Problem(names()["spectrum"], names()["network"], odeae.SGD(lr=lr))
    return problem, odeae.random_state(problem, seed=seed)


@lru_cache
def calls() -> list[Call]:
    n, t, r = names(), Named("theory"), Named("runs")
    p, s, x = n["problem"], n["state"], n["data"]
    spectrum, network, w = n["spectrum"], n["network"], n["weights"]
    omega = np.diag(np.arange(12.0, 0.0, -1.0))
    A, B = np.ones((3, 2)), np.ones((2, 3))
    S = np.diag([3.0, 2.0, 1.0])
    table = {
        "Spectrum": dict(spikes=[1.0], bulk=[1.0], multiplicity=[11], order=None, given=None,
                         basis=None, mean=None),
        "Spectrum.spiked": dict(spikes=[1.0, 0.6], dim=12, bulk=1.0),
        "Spectrum.from_eigenvalues": dict(rho=np.arange(12.0, 0.0, -1.0), spikes=2, bins=4),
        "Spectrum.from_covariance": dict(omega=omega, spikes=2, bins=4, mean=np.zeros(12)),
        "Spectrum.from_data": dict(x=x, spikes=2, bins=4, batch=16),
        "Spectrum.power_law": dict(dim=12, exponent=1.0, variance=1.0, spikes=2, bins=4),
        "Spectrum.marchenko_pastur": dict(dim=12, samples=30, variance=1.0, spikes=(), bins=4),
        "Autoencoder": dict(hidden=2, activation="linear", tied=False, bias=False,
                            output_bias=False, gain=1.0),
        "SGD": dict(lr=1.0, lr_encoder=None, lr_decoder=None, lr_bias=None, weight_decay=0.0,
                    truncated=False, gradient="full", schedule=None),
        "Oja": dict(lr=1.0, weight_decay=0.0, schedule=None),
        "Sanger": dict(lr=1.0, weight_decay=0.0, schedule=None),
        "Hebb": dict(lr=1.0, weight_decay=0.0, schedule=None),
        "StepSchedule": dict(times=[1.0], factors=[0.5]),
        "CosineSchedule": dict(end=1.0, final=0.0),
        "PowerLawSchedule": dict(exponent=1.0, start=1.0),
        "Quadrature": dict(fn=jnp.tanh, scale=1.0, q_max=10.0),
        "Problem": dict(spectrum=spectrum, autoencoder=network, rule=None, noise=0.0),
        "random_state": dict(problem=p, encoder_std=0.1, decoder_std=0.1, bias=0.0, seed=0),
        "aligned_state": dict(problem=p, encoder=1.0, decoder=1.0),
        "state_from_weights": dict(problem=p, W=w.encoder, V=w.decoder, bias=None,
                                   output_bias=None),
        "draw_weights": dict(problem=p, state=s, seed=0),
        "predict": dict(problem=p, state=s, times=TIMES, rtol=1e-6, atol=None, throw=True,
                        solver=None, max_steps=None, densities=False, diffusion=False,
                        progress=False),
        "predict_aligned": dict(problem=p, times=TIMES, encoder=0.1, decoder=0.1, bias=0.0,
                                rtol=1e-8, throw=True, max_steps=None),
        "ensemble": dict(problem=p, times=TIMES, members=2, encoder_std=0.1, decoder_std=0.1,
                         bias=0.0, seed=0),
        "simulate": dict(problem=p, state=s, times=TIMES, runs=3, seed=0, data=None, weights=None,
                         resample=True, test_samples=5, progress=False),
        "compare": dict(theory=t, runs=r, on="error"),
        "sweep": dict(build=build, grid={"lr": [0.5, 1.0], "seed": [0, 1]}, times=TIMES, zip=False,
                      store=None, save=(), rtol=1e-6, atol=None, solver=None, max_steps=None,
                      chunk=None, workers=None, executor=None, progress=False),
        "log_times": dict(end=10.0, count=20, start=None, dim=None),
        "load": dict(path="/nonexistent/x.nc", group=None, activation=None, schedule=None),
        "save_all": dict(path="/nonexistent/x.nc", trajectories=Named("one"), overwrite=False),
        "mode_map": dict(trajectory=t, clean=False),
        "mode_map_of_weights": dict(problem=p, weights=w, clean=False),
        "estimate_mode_map": dict(samples=x, reconstructions=0.5 * x, basis=None, times=None,
                                  centred=True),
        "fit_power_law": dict(curve=t, values="error", start=None, end=None),
        "local_slopes": dict(curve=t, values="error", start=None, end=None),
        "plateaus": dict(trajectory=t, which=None),
        "best_decoder": dict(problem=p, state=s),
        "residual": dict(problem=p, state=s),
        "fixed_points": dict(problem=p, states=s, tol=1e-10, max_steps=None),
        "bvn_cdf": dict(h=0.1, k=0.2, rho=0.5),
        "J2": dict(activation=odeae.Erf(), C=np.eye(2)),
        "I2": dict(activation=odeae.Erf(), C=np.eye(2)),
        "I21": dict(activation=odeae.Erf(), C=np.eye(2)),
        "I22": dict(activation=odeae.Erf(), C=np.eye(2)),
        "I3": dict(activation=odeae.Erf(), C=np.eye(3)),
        "linear.aligned_curve": dict(problem=p, times=TIMES, encoder=0.1, decoder=0.1),
        "linear.mode_curve": dict(times=TIMES, eigenvalue=1.0, encoder=0.1, decoder=0.1, noise=0.0,
                                  lr_encoder=1.0, lr_decoder=1.0),
        "linear.decayed_mode_curve": dict(times=TIMES, eigenvalue=1.0, product=0.1,
                                          weight_decay=0.1, noise=0.0),
        "linear.fixed_point": dict(eigenvalue=1.0, noise=0.0, decay=0.0),
        "linear.equivalent_decay": dict(eigenvalue=1.0, noise=0.5),
        "linear.mode_loss": dict(encoder=0.1, decoder=0.1, eigenvalue=1.0, noise=0.0, decay=0.0),
        "linear.optimal_rate": dict(eigenvalue=1.0, noise=0.0, decay=0.0, product=1.0),
        "linear.optimal_rate_ratio": dict(eigenvalue=1.0, noise=0.5, decay=None),
        "landscape.reconstruction_loss": dict(A=A, B=B, covariance=S),
        "landscape.critical_points": dict(covariance=S, hidden=2),
        "landscape.critical_point": dict(covariance=S, components=[0, 1], hidden=2),
        "landscape.critical_weights": dict(covariance=S, components=[0, 1], hidden=2, mixing=None),
        "landscape.flow": dict(A=A, B=B, covariance=S),
        "landscape.tied_flow": dict(W=np.eye(3), covariance=S, gradient="encoder"),
        "landscape.tied_energy": dict(W=np.eye(3), eigenvalue=1.0),
        "plot": dict(ax=None, labels=None, quantity=None, levels=True),
        "plot_sweep": dict(dataset=Named("table"), x="lr", y=None, ax=None, value=None, time=None,
                           select=None, mean=("seed",), levels=True),
        "plot_plateaus": dict(trajectory=t, ax=None, which=None, labels=True),
        "plot_mode_dynamics": dict(ax=None, labels=None, modes=None),
        "problem.error": dict(state=s),
        "problem.drift": dict(state=s, t=0.0),
        "problem.order_parameters": dict(state=s),
        "spectrum.pca_errors": dict(max_rank=3),
        "spectrum.pca_error": dict(rank=3),
        "theory.save": dict(path="/nonexistent/x.nc", overwrite=False),
        "theory.plot": dict(ax=None),
        "theory.plot_order_parameters": dict(axes=None),
        "theory.plot_overlaps": dict(axes=None),
    }  # fmt: skip
    made = []
    for name, arguments in table.items():
        root, _, method = name.partition(".")
        owner = {"problem": p, "spectrum": spectrum}.get(root, getattr(odeae, root, None))
        if root == "theory":
            function = Named(f"theory.{method}")
        else:
            function = getattr(owner, method) if method else owner
        if function is not None:
            made.append(Call(name, function, arguments))
    return made


# Calls with a first positional argument that is not named: what is drawn.
POSITIONAL = {"plot": ["theory", "runs"], "plot_mode_dynamics": ["dynamics"]}
# Numbers so large that a call would work for hours are no fault of the message.
COSTLY = {"1e20", "2**31", "7"}
SKIP = {
    ("ensemble", "members"), ("simulate", "runs"), ("simulate", "test_samples"),
    ("log_times", "count"), ("sweep", "workers"), ("Autoencoder", "hidden"),
    ("Spectrum.marchenko_pastur", "bins"), ("Spectrum.power_law", "bins"),
    ("Spectrum.power_law", "spikes"), ("Spectrum.power_law", "dim"),
}  # fmt: skip


def draw(rng, quick: bool = False) -> tuple[Call, list[Any], dict[str, str], str | None]:
    """A call, its positional arguments, what is replaced (name → code), a foreign keyword."""
    table = [call for call in calls() if call.quick or not quick]
    call = table[int(rng.integers(len(table)))]
    positional = list(POSITIONAL.get(call.name, []))
    places = [*call.arguments, *[f"*{i}" for i in range(len(positional))]]
    count = 1 if rng.random() < 0.8 else 2
    chosen = rng.choice(places, min(count, len(places)), replace=False)
    replaced = {}
    for place in map(str, chosen):
        pool = [h for h in HOSTILE if not ((call.name, place) in SKIP and h in COSTLY)]
        pool = [h for h in pool if not (quick and COMPILED.search(h))]
        replaced[place] = str(rng.choice(pool))
    foreign = str(rng.choice(UNKNOWN)) if rng.random() < 0.05 else None
    return call, positional, replaced, foreign


def bad(seed: int, numbers: list[int], say: Say, quick: bool = False) -> Done:
    """Wrong arguments, one or two in a call; every eighth is a line of the shell.

    `quick`: only what needs next to no compilation, other draws than without.
    """
    faults = []
    for number in numbers:
        say(number)
        rng = np.random.default_rng([seed, KINDS.index("bad"), number])
        if number % 8 == 7 and not quick:
            words = shell_line(rng)
            found, script = shell_faults(words), "odeae " + " ".join(map(repr, words))
        else:
            call, positional, replaced, foreign = draw(rng, quick)
            changed = ", ".join(f"{name}={code}" for name, code in replaced.items())
            script = f"odeae.{call.name}({changed}{f', {foreign}=1' if foreign else ''}, …)"
            found = call_faults(call, positional, replaced, foreign)
        faults += [Fault(number, what, f"{script}: {text}", script) for what, text in found]
    return Done(0, faults)


def call_faults(call, positional, replaced, foreign) -> Iterator[tuple[str, str]]:
    import matplotlib.pyplot as plt

    values = {k: eval(code, {}, names()) for k, code in replaced.items()}  # of HOSTILE
    given = [names()[name] for name in positional]
    for i in range(len(given)):
        given[i] = values.pop(f"*{i}", given[i])
    arguments = call.arguments | values | ({foreign: 1} if foreign else {})
    arguments = {k: names()[x.name] if isinstance(x, Named) else x for k, x in arguments.items()}
    function = call.function
    if isinstance(function, Named):
        owner, method = function.name.split(".")
        function = getattr(names()[owner], method)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
            try:
                result = function(*given, **arguments)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                if wrong := complaint(error):
                    yield _class(error, wrong), f"{wrong}: {first_line(error)}"
                return
            finally:
                plt.close("all")
    yield from _sane(call.name, result)


def _class(error: BaseException, wrong: str) -> str:
    if wrong.startswith("raises"):
        return f"raw {type(error).__name__}"
    return "not odeae's own words" if wrong.startswith("is raised by") else "not one readable line"


def _sane(name: str, result: Any) -> Iterator[tuple[str, str]]:
    """What was answered must say when it is nothing."""
    try:
        repr(result)
    except Exception as error:
        yield "repr", f"repr of the result raises {first_line(error)}"
    status = getattr(result, "status", None)
    error = getattr(result, "error", None)
    if (
        status is not None
        and error is not None
        and name in ("predict", "ensemble", "simulate", "sweep")
    ):
        ok = np.asarray(status) == 0
        lost = ~np.all(np.isfinite(np.asarray(error, float)), axis=-1)
        if np.any(ok & lost):
            yield "NaN with status ok", "an answer that is NaN, with status ok"
    if name in ("problem.error", "spectrum.pca_error", "log_times", "residual") and not np.all(
        np.isfinite(np.asarray(result, float))
    ):
        yield "NaN without a word", f"answers {result!r:.60}"


TEXTS = [
    "", "x", "0", "-1", "1", "2", "1.5", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 400, "2**3",
    "1,2", "1, 2", "1;2", "1,,2", ",", "0.6,abc", "1e3", "1e9", "erf", "erff", "linear", "sgd",
    "oja", "truncated", "cosine:1", "cosine:", "cosine:x", "step:1=0.5", "step:1", "step:=",
    "step:2=1,1=2",
    "power-law:1,1", "power-law:-1,1", "x.nc", "x.png", "x.csv", "/nonexistent/x.nc", ".", "~",
    "None", "true", "--", "-", "é", "\u202e", "a\nb", "1_000", "0x10", "1e5000", "１",
]  # fmt: skip
_SETTINGS = [
    *config.COMMON,
    *config.SOLVE,
    *config.ENSEMBLE,
    *config.RUNS,
    *config.SWEEP,
    *config.OUTPUT,
]
FLAGS = [
    s.name for s in _SETTINGS if s.type is not bool and s.name not in ("dask", "slurm", "workers")
]
SWITCHES = [s.name for s in _SETTINGS if s.type is bool and s.name != "devices"]
SWITCHES += ["json", "no-tied", "help", "version"]
GRIDS = ["lr=0.5,1", "lr=", "lr", "=1", "lr=1:2:3", "lr=1:2:x", "lr=1:2:3:log", "seed=0:2", "x=1",
         "lr=0:1:3:log", "lr=nan", "seed=0.5", "activation=erf,linear", "lr=1,1", "hidden=1,2",
         "dim=12,1", "seed=0:100000000000"]  # fmt: skip


def shell_line(rng) -> list[str]:
    """A command with some flags that are wrong; the rest keeps it small."""
    command = str(
        rng.choice(
            ["predict", "simulate", "compare", "sweep", "spectrum"], p=[0.4, 0.15, 0.1, 0.2, 0.15]
        )
    )
    words = [command]
    base = {
        "spikes": "1,0.6",
        "dim": "12",
        "hidden": "2",
        "activation": "linear",
        "end": "1",
        "count": "4",
    }
    if command in ("simulate", "compare"):
        base |= {"runs": "3", "test-samples": "5"}
    if command == "sweep":
        base |= {"grid": str(rng.choice(GRIDS))}
    if command == "spectrum":
        base = {"spikes": "1,0.6", "dim": "12"}
    for _ in range(int(rng.integers(1, 3))):
        flag = str(rng.choice(FLAGS if command != "spectrum" else FLAGS[:9]))
        texts = [
            t for t in TEXTS if not (t == "1e9" and flag in ("count", "runs", "members", "bins"))
        ]
        base[flag] = str(rng.choice(GRIDS if flag == "grid" else texts))
    for flag, text in base.items():
        words += [f"--{flag}", text] if rng.random() < 0.7 else [f"--{flag}={text}"]
    if rng.random() < 0.3:
        words.append(f"--{rng.choice(SWITCHES)}")
    if rng.random() < 0.5 and command != "sweep":
        words.append("--json")
    if rng.random() < 0.05:
        words.insert(1, str(rng.choice(TEXTS)))
    if rng.random() < 0.03:
        words[0] = str(rng.choice(["predikt", "", "--help", "plot", "--version"]))
    return words


def shell_faults(words: list[str]) -> Iterator[tuple[str, str]]:
    """One readable line on stderr and exit code 1, or an answer; nothing half-written."""
    from odeae.shell.main import main

    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.argv = ["odeae", *words]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as ended:
            code = ended.code
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            yield "shell: traceback", f"{first_line(error)}"
            return
        finally:
            sys.argv = before
            import matplotlib.pyplot as plt

            plt.close("all")
        left = [p.name for p in Path(".").iterdir()]
    said = [line for line in err.getvalue().splitlines() if "warning" not in line]
    if code not in (0, 1, None):
        yield "shell: exit code", f"exit code {code}: {said[:1]}"
    if code == 1:
        if left:
            yield "shell: half-written", f"failed, but left {left}"
        if len(said) != 1 or len(said[0]) > 500:
            yield "shell: not one line", f"{len(said)} lines, {len(err.getvalue())} characters"
        elif found := re.search(r"Traceback|\bjax\.|\blax\.|ufunc|Tracer", said[0]):
            yield "shell: words", f"speaks of {found.group()!r}: {said[0][:120]}"
    if (
        code in (0, None)
        and "--json" in words
        and "--help" not in words
        and "--version" not in words
    ):
        try:
            answer = json.loads(out.getvalue())
        except ValueError:
            yield "shell: json", f"no JSON but {out.getvalue()[:60]!r}"
            return
        if answer.get("status") == "ok" and None in answer.get("error", []):
            yield "NaN with status ok", "null in `error`, status ok"
