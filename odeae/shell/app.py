"""The application: how a function and a table of settings become a command."""

import inspect
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from odeae.base.messages import meant, shortened
from odeae.shell import settings as config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learning curves of shallow non-linear autoencoders, exactly, from a covariance spectrum.",
    epilog="Try: [bold]odeae predict --spikes 1,0.6,0.3 --dim 1000 --hidden 3 --plot curve.png[/]",
)


UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which typer has made its own


class Command(TyperCommand):
    """A command that refuses by name what click would drop, or take for a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse stray values, unknown options and options that are given twice."""
        options = {flag: o for o in self.params for flag in o.opts if flag.startswith("-")}
        for i, word in enumerate(args):
            if word in options and not getattr(options[word], "is_flag", True):
                stray = list(itertools.takewhile(_is_number, args[i + 2 :]))
                if stray and not Path(stray[0]).is_file():
                    text = ",".join(value.strip(",") for value in (args[i + 1], *stray))
                    several = options[word].metavar == "LIST" or options[word].multiple
                    one = f"{word} takes one value, got {shortened(text)}"
                    many = f"separate values by commas: {word} {text}"
                    raise UsageError(many if several else one, ctx)
        try:
            order = self.make_parser(ctx).parse_args(list(args))[2]
        except UsageError as error:
            unknown = getattr(error, "option_name", None)
            if unknown is None or unknown in options:  # one that lacks its value, for example
                raise
            known = [flag[2:].replace("-", "_") for flag in options if flag.startswith("--")]
            found = meant(unknown.lstrip("-").replace("-", "_"), known)
            flags = " or ".join("--" + name.replace("_", "-") for name in found)
            hint = f", did you mean {flags}?" if found else ""
            raise UsageError(f"No such option: {unknown}{hint}", ctx) from None
        for flag, option in options.items():
            if not option.multiple and order.count(option) > 1:
                commas = ", with commas between its values" if option.metavar == "LIST" else ""
                times = order.count(option)
                raise UsageError(f"{flag} is given {times} times: give it once{commas}", ctx)
        return super().parse_args(ctx, args)


def _is_number(text: str) -> bool:
    try:
        float(text.strip(","))
    except ValueError:
        return False
    return True


def _version(asked: bool | None) -> None:
    if asked:
        from odeae.base.version import __version__

        print(f"odeae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


Config = Annotated[
    str | None, typer.Argument(metavar="[CONFIG.toml]", help="Settings; flags override them.")
]


Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, for scripts.", rich_help_panel="output"),
]


def as_command(*tables: list[config.Setting]) -> Callable:
    """Register a command whose flags are the settings of `tables`: one list serves all.

    The function gets the merged values and whether JSON was asked for.
    """
    settings = [setting for table in tables for setting in table]

    def register(function: Callable[[dict[str, Any], bool], None]) -> Callable:
        def command(**given: Any) -> None:
            path, as_json = given.pop("config_file"), given.pop("as_json")
            function(config.read(path, settings, given), as_json)

        parameters: list[tuple[str, Any, Any]] = [("config_file", Config, None)]
        for s in settings:
            text = s.help if s.default in (None, False) else f"{s.help} [dim]\\[{s.default}][/]"
            flag = f"--{s.name}/--no-{s.name}" if s.type is bool else f"--{s.name}"
            names = (flag, "-o") if s.name == "output" else (flag,)
            option = typer.Option(
                *names,
                help=text,
                metavar=s.metavar or ("INTEGER" if s.type is int else None),
                parser=_whole if s.type is int else None,
                rich_help_panel=s.section,
                show_default=False,
            )
            kind = list[str] if s.type is dict else s.type
            parameters.append((s.key, Annotated[kind | None, option], None))
        parameters.append(("as_json", Json, False))
        command.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
            [
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
                )
                for name, kind, default in parameters
            ]
        )
        command.__annotations__ = {name: kind for name, kind, _ in parameters}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return app.command(name=function.__name__, cls=Command)(command)

    return register


def _whole(text: str) -> int:
    """A whole number, also one such as 1e9."""
    try:
        return config.whole(text)
    except ValueError:
        text = f"{shortened(text)} is not a whole number, such as 1000 or 1e9"
        raise typer.BadParameter(text) from None


def start_jax() -> None:
    """Switch on float64, and keep compiled programs on disk: a second run starts at once."""
    # Equinox's run-time errors are host callbacks, which keep a program out of the cache; odeae
    # reports failures as a status and needs none of them.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "odeae"
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache))
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
