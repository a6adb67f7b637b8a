"""The text of `--help` for any width, with colours on a terminal (rich-argparse).

Descriptions and examples are written as plain text, and are laid out here: a paragraph is filled, an indented line
keeps its indent, and a command (an indented line that begins with the program's name) is continued as a shell reads it.
"""

from typing import Any

from rich_argparse import RawDescriptionRichHelpFormatter

from lmcore.terminal.console import output_console, output_width, wrapped, wrapped_command

MAX_WIDTH = 100  # longer lines of help are hard to read
COLUMN = 26  # where the descriptions of options begin


class HelpFormatter(RawDescriptionRichHelpFormatter):
    """The formatter of all commands: no markup, names of groups as they are written."""

    group_name_formatter = str
    help_markup = False
    text_markup = False

    def __init__(self, prog: str, **options: Any) -> None:
        self.limit = help_width()
        super().__init__(prog, max_help_position=COLUMN, width=self.limit, **options)
        self.console = output_console(width=self.limit)

    def add_text(self, text: Any) -> None:
        """A description or an epilog."""
        super().add_text(laid_out(text, self.limit, self._prog) if isinstance(text, str) else text)


def help_width() -> int:
    """Characters in a line of help."""
    return min(MAX_WIDTH, output_width())


def laid_out(text: str, width: int, prog: str) -> str:
    """The text in lines of at most `width` characters; see the module.

    >>> print(laid_out("A paragraph\\nof help.\\n\\nexamples:\\n  lmsweep run --trials 3", 20, "lmsweep run"))
    A paragraph of help.
    <BLANKLINE>
    examples:
      lmsweep run \\
          --trials 3
    """
    return "\n\n".join(_block(block, width, prog.split()[0]) for block in text.strip("\n").split("\n\n"))


def _block(block: str, width: int, program: str) -> str:
    lines: list[str] = []
    paragraph: list[str] = []
    for line in (*block.split("\n"), None):
        if line is not None and not line.startswith(" "):
            paragraph.append(line)
            continue
        if paragraph:
            lines.append(wrapped(" ".join(paragraph), width))
            paragraph = []
        if line is not None:
            own = line.lstrip()
            indent = len(line) - len(own)
            is_command = own.startswith(f"{program} ")
            lines.append(wrapped_command(own, width, indent) if is_command else wrapped(line, width, " " * indent))
    return "\n".join(lines)
