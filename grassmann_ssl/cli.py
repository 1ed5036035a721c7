"""The command line: arguments to configs, nothing else."""

import sys
from typing import Annotated

import tyro
from tqdm import tqdm

from grassmann_ssl.experiments import CompareConfig, compare
from grassmann_ssl.training import ConfigError


def _progress(total: int):
    bar = tqdm(total=total, unit="step", unit_scale=True, leave=False, mininterval=0.3, smoothing=0.05)

    def tick(label: str) -> None:
        if bar.desc != label + ": ":
            bar.set_description(label, refresh=False)
        bar.update()
        if bar.n >= total:
            bar.close()

    return tick


def run_compare(config: Annotated[CompareConfig, tyro.conf.arg(name="")]) -> int:
    """Train free and constrained weights on the same data from the same draw, and hold both against theory.

    Writes a run folder with run.json, metrics.parquet, arrays.safetensors and report.html, and prints a summary.
    """
    from grassmann_ssl.report import summary

    comparison = compare(config, _progress)
    print(summary(comparison.result))
    print(f"report: {config.folder / 'report.html'}")
    return 130 if comparison.result["interrupted"] else 0


def main() -> None:
    """Entry point of `grassmann-ssl`: exit code 2 and one line on stderr for settings that cannot be run, 130 after Ctrl-C."""
    app = tyro.extras.SubcommandApp()
    app.command(name="compare")(run_compare)
    try:
        sys.exit(app.cli(prog="grassmann-ssl", config=(tyro.conf.OmitArgPrefixes,)))
    except ConfigError as error:
        sys.exit(_refuse(str(error)))
    except KeyboardInterrupt:
        print("grassmann-ssl: interrupted before anything was recorded", file=sys.stderr)
        sys.exit(130)


def _refuse(reason: str) -> int:
    print(f"grassmann-ssl: error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
