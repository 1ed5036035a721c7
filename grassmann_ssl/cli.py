"""The command line: parses arguments into configs."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from grassmann_ssl import __version__
from grassmann_ssl.streams import printed, progress, say, steady, unprinted

# torch, geoopt and all that needs them are imported where they are used: --version does not wait for them.
if TYPE_CHECKING:
    from grassmann_ssl.runs import RunConfig

DESCRIPTION = "Self-supervised learning on the Grassmann manifold."
ROOMS = {
    "audit": "Judge embeddings",
    "encoders": "Train encoders",
    "linear": "Linear models against theory",
    "networks": "Two-layer networks and their kernels",
    "phase": "Predictors without negatives: the questions of Tian et al. 2021",
    "tools": "Tools",
}


def run_report(folders: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path | None = None) -> int:
    """Redraw the page of a run folder from its files, without training; of several folders, a page that shows the runs side by side.

    Args:
        folders: run folders
        out: page of several runs (default: runs/side-by-side.html)
    """
    from grassmann_ssl.report import draw
    from grassmann_ssl.runs import ConfigError, stored_runs

    if not folders:
        raise ConfigError("folders: give a run folder, as in `grassmann-ssl report runs/train`")
    if len(folders) == 1:
        if out is not None:
            raise ConfigError("out: is for the page of several folders; that of one is its report.html")
        return 0 if printed(f"report: {draw(folders[0])}") else 1
    from grassmann_ssl.report.side_by_side import draw_side_by_side

    runs, left_out = stored_runs(folders)
    return _shown(f"report: {draw_side_by_side(runs, out or Path('runs/side-by-side.html'))}", left_out)


def run_table(
    folders: Annotated[tuple[str, ...], tyro.conf.Positional] = ("runs",),
    columns: tuple[str, ...] = (),
    save: Path | None = None,
) -> int:
    """Print stored runs, a line each: the settings that differ, verdicts, and numbers with their intervals.

    Args:
        folders: run folders, folders of runs, or patterns such as "runs/*"
        columns: the columns to print in place of these, as `load_runs` names them
        save: also write the columns, all of them or those of --columns, to a .csv or .parquet file
    """
    from grassmann_ssl.report.runs_table import runs_table, save_runs
    from grassmann_ssl.runs import stored_runs

    runs, left_out = stored_runs(folders)
    if save is not None:
        save_runs(runs, save, columns)
    return _shown(runs_table(runs, columns), left_out)


def _shown(text: str, left_out: str) -> int:
    """Print a text, and what was left out of it, which is no failure."""
    if left_out:
        say(f"grassmann-ssl: {left_out}")
    return 0 if printed(text) else 1


def _command(config_type: "type[RunConfig]", start: "RunConfig") -> Callable[..., int]:
    """The command of one experiment: its help is the config's docstring. `start` has the settings that options take the place of."""

    def command(settings: "RunConfig" = start, config: Path | None = None, quiet: bool = False) -> int:
        from grassmann_ssl.report.terminal import summary
        from grassmann_ssl.run import run
        from grassmann_ssl.runs import unfinished

        outcome = run(settings, None if quiet else progress)
        if outcome is None:  # the first process prints and writes
            return 0
        if not quiet:
            text = f"{summary(outcome)}\nreport: {settings.folder / 'report.html'}"
            shown = printed(text, f"; the run is in {settings.folder}")
        if outcome.failed:
            return _end(3, f"failed: {outcome.failed}")
        if outcome.interrupted:
            more = "; the same command continues it" if unfinished(settings.folder) else ""
            return _end(130, f"interrupted {outcome.interrupted}{more}")
        return 0 if quiet or shown else 1

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
    command.__doc__ = f"{config_type.__doc__}\n\nExample: grassmann-ssl {config_type.EXAMPLE}"
    return command


def _overview(commands: "dict[str, tuple[str, str]]") -> str:
    """All commands, a line each, under the titles of their rooms; `commands`: room and help by name."""
    width = max(map(len, commands))
    left = max(20, shutil.get_terminal_size().columns - width - 4)
    lines = [DESCRIPTION]
    for room, title in ROOMS.items():
        lines += ["", f"{title}:"]
        for name, (of, text) in commands.items():
            if of == room:
                line = " ".join((text or "").split("\n\n")[0].split())
                lines.append(f"  {name.ljust(width)}  {textwrap.shorten(line, left, placeholder=' ...')}")
    return "\n".join(
        [
            *lines,
            "",
            "grassmann-ssl COMMAND --help explains a command; --version prints the versions.",
        ]
    )


def _file_of(arguments: Sequence[str]) -> Path | None:
    """The value of the last --config."""
    found = None
    for word, after in zip(arguments, [*arguments, None][1:], strict=True):
        name, equals, value = word.partition("=")
        if name == "--config":
            found = value if equals else after
    return Path(found) if found else None


def main() -> None:
    """Entry point of `grassmann-ssl`.

    Exit codes: 2 for settings that cannot be run, 1 for a loss that is not finite, a run that cannot be written and too little memory,
    3 where `audit --fail-on` holds, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, each with one line on stderr.
    """
    steady()
    if sys.flags.optimize > 1:
        sys.exit(_end(2, "error: python -OO takes away the docstrings, which the help is made of; use python -O"))
    if sys.argv[1:] == ["--version"]:
        printed(f"grassmann-ssl {__version__}, torch {version('torch')}, geoopt {version('geoopt')}")
        return
    from grassmann_ssl.experiments import EXPERIMENTS
    from grassmann_ssl.interrupt import Terminated
    from grassmann_ssl.listing import run_list
    from grassmann_ssl.run import Stopped, Unwritten
    from grassmann_ssl.runs import ConfigError, toml
    from grassmann_ssl.sweep import run_sweep
    from grassmann_ssl.training.watch import Diverged

    name, file = (sys.argv[1:2] or [""])[0], _file_of(sys.argv[2:])
    try:
        app = tyro.extras.SubcommandApp()
        commands = {}
        for config_type in EXPERIMENTS:
            given = toml.load(file, config_type) if file is not None and config_type.NAME == name else {}
            app.command(name=config_type.NAME)(_command(config_type, config_type.unchecked(**given)))
            room = config_type.NAME if config_type.NAME in ROOMS else config_type.__module__.split(".")[2]
            commands[config_type.NAME] = (room, config_type.__doc__ or "")
        for tool, function in (("sweep", run_sweep), ("report", run_report), ("table", run_table), ("list", run_list)):
            app.command(name=tool)(function)
            commands[tool] = ("tools", function.__doc__ or "")
        if sys.argv[1:] in ([], ["-h"], ["--help"]):
            sys.exit((0 if sys.argv[1:] else 2) if printed(_overview(commands)) else 1)
        sys.exit(app.cli(prog="grassmann-ssl", description=DESCRIPTION))
    except OSError as error:
        if not {"-h", "--help"} & {*sys.argv}:
            raise
        unprinted(error)  # of a help that goes into `head`
        sys.exit(1)
    except ConfigError as error:
        sys.exit(_end(2, f"error: {error}"))
    except Diverged as error:
        sys.exit(_end(1, f"diverged: {error}"))
    except Unwritten as error:
        sys.exit(_end(1, f"error: {error}"))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        sys.exit(_end(1, f"out of memory: {error}"))
    except Terminated as stop:
        sys.exit(_end(128 + stop.number, f"{stop.name}, {stop.where}"))
    except Stopped as stop:
        sys.exit(_end(130, f"interrupted {stop}"))
    except KeyboardInterrupt:
        sys.exit(_end(130, "interrupted, nothing was recorded"))


def _out_of_memory(error: Exception) -> bool:
    """Whether torch, which says so of the CPU in a RuntimeError, or numpy found no memory."""
    from torch import OutOfMemoryError

    return isinstance(error, (MemoryError, OutOfMemoryError)) or "can't allocate memory" in str(error)


def _end(code: int, reason: str) -> int:
    """End with a reason, in one line whatever its text."""
    progress.close()
    say(f"grassmann-ssl: {' '.join(reason.splitlines())}")
    return code


if __name__ == "__main__":
    main()
