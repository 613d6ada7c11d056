"""Applications of commands, and their messages: errors without traceback, and the log."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from ..errors import ComosvcError, printable, without_home, without_package
from ..storage import reason


def new_app() -> typer.Typer:
    """An application for a command of the runtime, with shell completion."""
    return typer.Typer(
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(app: typer.Typer, command: str, extra: str) -> None:
    """Run the application of `command`; where a package that it needs is missing, name the extra that brings it."""
    try:
        app()
    except ModuleNotFoundError as error:
        raise without_package(error, command, extra) from None
    except (OSError, RuntimeError) as error:
        raise without_home(error) from None


@contextmanager
def errors_in_words(
    console: Console, unnamed: str = "the operating system", edit: Callable[[str], str] = str
) -> Iterator[None]:
    """Print a `ComosvcError`, or an error of the operating system, as a message, and exit with code 1.

    `unnamed` stands before errors of the operating system that name no file. `edit` changes the message; an empty one
    is not printed.
    """
    try:
        yield
    except ComosvcError as error:
        text = str(error)
    except OSError as error:
        if error.errno == errno.EPIPE:  # typer ends the process
            raise
        text = printable(f"{error.filename or unnamed}: {reason(error)}")
        _drop_unwritten()
    else:
        return
    if text := edit(text):
        console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def _drop_unwritten() -> None:
    """Send what standard output cannot take to nowhere: Python would try it again at its end, and exit with 120."""
    if sys.stdout is None:  # closed before the start
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_to(console: Console) -> None:
    """Print the log of this process on `console`."""
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
