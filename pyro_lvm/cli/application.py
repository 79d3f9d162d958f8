"""The application: its commands put together, and how it ends."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Never

import typer

from pyro_lvm.cli.applying import embed_command, impute_command
from pyro_lvm.cli.contract import check_command, list_pairs
from pyro_lvm.cli.generating import reconstruct_command, sample_command
from pyro_lvm.cli.gradients import gradients_command
from pyro_lvm.cli.judging import evidence_command, gap_command, judge_command, latent_map_command
from pyro_lvm.cli.predictive import ppc_command
from pyro_lvm.cli.reporting import report_command
from pyro_lvm.cli.scaffolding import new_command
from pyro_lvm.cli.selecting import select_command
from pyro_lvm.cli.training import evaluate_command, fit_command
from pyro_lvm.errors import PyroLvmError

# Some releases of typer bring a click of their own: its exceptions are reached through typer alone.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="pyro-lvm",
    help="Latent-variable models in Pyro whose amortized guides are graded against the truth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

app.command("list")(list_pairs)
app.command("new")(new_command)
app.command("check")(check_command)
app.command("fit")(fit_command)
app.command("evaluate")(evaluate_command)
app.command("evidence")(evidence_command)
app.command("gap")(gap_command)
app.command("judge")(judge_command)
app.command("latent-map")(latent_map_command)
app.command("ppc")(ppc_command)
app.command("sample")(sample_command)
app.command("reconstruct")(reconstruct_command)
app.command("impute")(impute_command)
app.command("embed")(embed_command)
app.command("select")(select_command)
app.command("gradients")(gradients_command)
app.command("report")(report_command)


def main(arguments: list[str] | None = None) -> Never:
    """Run the command line; whatever a person can mend is one line on standard error and exit code 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            # Pyro's; the error that ends such a training says it with what to do.
            warnings.filterwarnings("ignore", "Encountered NaN")
            code = app(args=arguments, standalone_mode=False)
    except (PyroLvmError, _ClickException) as error:
        message = error.format_message() if isinstance(error, _ClickException) else str(error)
        if message:  # without a command, the help has been printed
            print(f"pyro-lvm: {_one_line(message)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"pyro-lvm: {error.strerror or error}: {str(error.filename or '')[:80]}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("pyro-lvm: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """As a person reads it, without the line of code behind it."""
    print(f"pyro-lvm: warning: {_one_line(str(message))}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split())
