"""The command line: what was typed becomes a call of `commands`, what it raises one line and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import typer

# Importing a module registers its commands, in the order in which --help lists them.
# isort: off
from automl.commands import searching, steering, looking, models, tokens, serving, schedules, batches, channels  # noqa: F401

# isort: on
from automl.commands.shared import app
from automl.errors import AutoMLError, PromotionConflict, PromotionRefused, StudyFailed


def main() -> NoReturn:
    """`automl`: exit status 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="automl: %(message)s")
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))  # 130 after Ctrl-C, None when all went well
    except typer.TyperException as error:  # as an unknown option
        _exit(2, f"{error.format_message().rstrip('.')}; see `automl {_command_word()}--help`")
    except StudyFailed as error:
        if error.traceback:
            print(error.traceback.rstrip(), file=sys.stderr)
        _exit(1, str(error))
    except (PromotionRefused, PromotionConflict) as error:
        _exit(1, str(error))
    except AutoMLError as error:
        _exit(2, str(error))
    except BrokenPipeError:  # `automl ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # as a full disk
        _exit(1, str(error))


def _command_word() -> str:
    """The command that was typed, as `run ` or `token create `; "" when it is none of ours."""
    found, of = "", app
    for typed in sys.argv[1:3]:
        group = next((group.typer_instance for group in of.registered_groups if group.name == typed), None)
        names = [command.name or getattr(command.callback, "__name__", "") for command in of.registered_commands]
        if group is None:
            return f"{found}{typed} " if typed in names else found
        found, of = f"{found}{typed} ", group
    return found


def _exit(status: int, message: str) -> NoReturn:
    print("automl: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
