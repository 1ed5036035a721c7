"""The command line: parses arguments into configs."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tqdm import tqdm

from grassmann_ssl import __version__

# torch, geoopt and all that needs them are imported where they are used: --version does not wait for them.
if TYPE_CHECKING:
    from grassmann_ssl.runs import RunConfig

DESCRIPTION = "Self-supervised learning on the Grassmann manifold. `grassmann-ssl --version` prints the versions."


class ProgressBar:
    """A progress bar, shown from the first step until the last or until it is closed."""

    bar: tqdm | None = None

    def __call__(self, total: int) -> Callable[..., None]:
        def tick(label: str, steps: int = 1) -> None:
            if self.bar is None:
                self.bar = tqdm(total=total, unit="step", unit_scale=True, leave=False, mininterval=0.3, smoothing=0.05)
            if self.bar.desc != label + ": ":
                self.bar.set_description(label, refresh=False)
            self.bar.update(steps)
            if self.bar.n >= total:
                self.close()

        return tick

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self.bar is not None:
            self.bar.close()


progress = ProgressBar()


def run_report(folder: Annotated[Path, tyro.conf.Positional]) -> int:
    """Redraw the page of a run folder from its files, without training."""
    from grassmann_ssl.report import draw

    print(f"report: {draw(folder)}")
    return 0


def _command(config_type: "type[RunConfig]") -> Callable[..., int]:
    """The command of one experiment: its help is the config's docstring."""

    def command(config: "RunConfig") -> int:
        from grassmann_ssl.report.terminal import summary
        from grassmann_ssl.run import run

        outcome = run(config, progress)
        if outcome is None:  # the first process prints and writes
            return 0
        print(summary(outcome))
        print(f"report: {config.folder / 'report.html'}")
        if outcome.failed:
            return _end(3, f"failed: {outcome.failed}")
        return 130 if outcome.interrupted else 0

    command.__annotations__["config"] = Annotated[config_type, tyro.conf.arg(name="")]
    command.__doc__ = config_type.__doc__
    return command


def main() -> None:
    """Entry point of `grassmann-ssl`.

    Exit codes: 2 for settings that cannot be run, 1 for a loss that is not finite, 3 where `audit --fail-on` holds, 130 after Ctrl-C,
    each with one line on stderr.
    """
    if sys.argv[1:] == ["--version"]:
        print(f"grassmann-ssl {__version__}, torch {version('torch')}, geoopt {version('geoopt')}")
        return
    from grassmann_ssl.experiments import EXPERIMENTS
    from grassmann_ssl.run import Stopped
    from grassmann_ssl.runs import ConfigError
    from grassmann_ssl.training.watch import Diverged

    app = tyro.extras.SubcommandApp()
    for config_type in EXPERIMENTS:
        app.command(name=config_type.NAME)(_command(config_type))
    app.command(name="report")(run_report)
    try:
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
    print(f"grassmann-ssl: {reason}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
