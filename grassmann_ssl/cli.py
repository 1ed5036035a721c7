"""The command line: parses arguments into configs."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from grassmann_ssl import __version__
from grassmann_ssl.streams import printed, progress, say, steady

# torch, geoopt and all that needs them are imported where they are used: --version does not wait for them.
if TYPE_CHECKING:
    from grassmann_ssl.runs import RunConfig

DESCRIPTION = "Self-supervised learning on the Grassmann manifold. `grassmann-ssl --version` prints the versions."


def run_report(folder: Annotated[Path, tyro.conf.Positional]) -> int:
    """Redraw the page of a run folder from its files, without training."""
    from grassmann_ssl.report import draw

    return 0 if printed(f"report: {draw(folder)}") else 1


def _command(config_type: "type[RunConfig]", start: "RunConfig") -> Callable[..., int]:
    """The command of one experiment: its help is the config's docstring. `start` has the settings that options take the place of."""

    def command(settings: "RunConfig" = start, config: Path | None = None, quiet: bool = False) -> int:
        from grassmann_ssl.report.terminal import summary
        from grassmann_ssl.run import run

        outcome = run(settings, None if quiet else progress)
        if outcome is None:  # the first process prints and writes
            return 0
        if not quiet:
            text = f"{summary(outcome)}\nreport: {settings.folder / 'report.html'}"
            shown = printed(text, f"; the run is in {settings.folder}")
        if outcome.failed:
            return _end(3, f"failed: {outcome.failed}")
        return 130 if outcome.interrupted else 0 if quiet or shown else 1

    command.__annotations__ |= {
        "settings": Annotated[config_type, tyro.conf.arg(name="")],
        "config": Annotated[
            Path | None,
            tyro.conf.arg(
                help="TOML file of settings, such as config.toml of a run folder; options of the command line win"
            ),
        ],
        "quiet": Annotated[bool, tyro.conf.arg(help="print nothing but errors")],
    }
    command.__doc__ = config_type.__doc__
    return command


def _file_of(arguments: Sequence[str]) -> Path | None:
    """The value of the last --config."""
    found = None
    for word, after in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name == "--config":
            found = value if equals else after
    return Path(found) if found else None


def main() -> None:
    """Entry point of `grassmann-ssl`.

    Exit codes: 2 for settings that cannot be run, 1 for a loss that is not finite, 3 where `audit --fail-on` holds, 130 after Ctrl-C,
    each with one line on stderr.
    """
    steady()
    if sys.argv[1:] == ["--version"]:
        printed(f"grassmann-ssl {__version__}, torch {version('torch')}, geoopt {version('geoopt')}")
        return
    from grassmann_ssl.experiments import EXPERIMENTS
    from grassmann_ssl.run import Stopped
    from grassmann_ssl.runs import ConfigError, toml
    from grassmann_ssl.sweep import run_sweep
    from grassmann_ssl.training.watch import Diverged

    name, file = (sys.argv[1:2] or [""])[0], _file_of(sys.argv[2:])
    try:
        app = tyro.extras.SubcommandApp()
        for config_type in EXPERIMENTS:
            given = toml.load(file, config_type) if file is not None and config_type.NAME == name else {}
            app.command(name=config_type.NAME)(_command(config_type, config_type.unchecked(**given)))
        app.command(name="sweep")(run_sweep)
        app.command(name="report")(run_report)
        sys.exit(app.cli(prog="grassmann-ssl", description=DESCRIPTION))
    except ConfigError as error:
        sys.exit(_end(2, f"error: {error}"))
    except Diverged as error:
        sys.exit(_end(1, f"diverged: {error}"))
    except Stopped as stop:
        sys.exit(_end(130, f"interrupted {stop}"))
    except KeyboardInterrupt:
        sys.exit(_end(130, "interrupted, nothing was recorded"))


def _end(code: int, reason: str) -> int:
    progress.close()
    say(f"grassmann-ssl: {reason}")
    return code


if __name__ == "__main__":
    main()
