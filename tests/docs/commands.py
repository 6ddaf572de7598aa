"""The commands in the documentation, and which of them are not run."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SHELLS = {"sh", "shell", "bash", "console"}
OTHER_LANGUAGES = {"text", "yaml", "json", "python", "{toctree}", "{eval-rst}"}
PROGRAMS = {
    *("unet-bundle", "python", "python3", "python3.11", "py", "pip", "make", "torchrun", "cp", "cd", "source", "bash"),
    *("monailabel", "monai-deploy", "tensorboard", "docker", "git", "sbatch", "apt-get", "curl", "ssh"),
}


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.strip().splitlines()[0].strip()


@dataclass(frozen=True)
class Command:
    """A command as a person types it, on one line and without the remark behind it."""

    page: str
    line: int
    text: str
    block: int = 0
    """Line in which its block begins."""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}: {self.text}"


# --- finding ----------------------------------------------------------------------------------------------------


def blocks() -> Iterator[Block]:
    """All blocks of code of all pages."""
    parser = MarkdownIt()
    for page in PAGES:
        for token in parser.parse(page.read_text(encoding="utf-8")):
            if token.type in {"code_block", "fence"} and token.content.strip():
                line = token.map[0] + 1 + (token.type == "fence") if token.map else 0
                language = token.info.split()[0] if token.info.split() else ""
                yield Block(page.relative_to(ROOT).as_posix(), line, language, token.content)


def inline_commands() -> Iterator[Command]:
    """Commands of ours that stand amid the text, whole or in part."""
    parser = MarkdownIt("commonmark").enable("table")
    for page in PAGES:
        for token in parser.parse(page.read_text(encoding="utf-8")):
            for child in token.children or []:
                if child.type == "code_inline" and re.match(r"unet-bundle [a-z-]+ |python scripts/", child.content):
                    yield Command(page.relative_to(ROOT).as_posix(), token.map[0] + 1, child.content)


def programs() -> list[Block]:
    """Blocks of Python that are whole programs: those that import what they use."""
    return [block for block in blocks() if block.language in {"", "python"} and _is_python(block.text)]


def is_program(word: str) -> bool:
    return word in PROGRAMS or word.startswith(".venv")


def commands_of(block: Block) -> list[Command]:
    """The commands of a block; none if it is Python, YAML or the like.

    Raises:
        ValueError: it is not clear what the block is.
    """
    if block.language in OTHER_LANGUAGES:
        return []
    joined = _joined(block)
    if block.text.startswith("#!"):
        return [command for command in joined if is_program(command.words[0])]
    if block.first_line.startswith("$ "):
        return [replace(each, text=each.text.removeprefix("$ ")) for each in joined if each.text.startswith("$ ")]
    starts = [command.text.split()[0] for command in joined]
    if block.language in SHELLS or all(map(is_program, starts)):
        return joined
    if any(map(is_program, starts)) or not (_is_python(block.text) or _is_yaml(block.text)):
        raise ValueError(f"{block.page}, line {block.line}: is this a command? {block.first_line}")
    return []


def _joined(block: Block) -> list[Command]:
    """Lines with those that go on behind a backslash, without remarks."""
    found, line = [], block.line
    for part in re.sub(r"\\\n\s*", "\0", block.text).split("\n"):
        text = re.sub(r"(^|\s+)#(\s.*)?$", "", part.replace("\0", "")).strip().removesuffix(" &")
        if text:
            found.append(Command(block.page, line, text, block.line))
        line += 1 + part.count("\0")
    return found


def _is_python(text: str) -> bool:
    try:
        tree = ast.parse(inspect.cleandoc(text))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)


def _is_yaml(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False


# --- exceptions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exceptions:
    """What is not run, and why.

    Attributes:
        reasons: reason by command.
        not_commands: first lines of blocks that are no commands.
        programs: reason by the first line of a program in Python.
        shorter: what is replaced in commands before they are run.
    """

    reasons: dict[str, str]
    not_commands: list[str]
    programs: dict[str, str]
    shorter: dict[str, str]


def read_exceptions() -> Exceptions:
    """The list beside this file."""
    content = yaml.safe_load((Path(__file__).parent / "exceptions.yaml").read_text(encoding="utf-8"))
    reasons = {command: group["reason"] for group in content["exceptions"] for command in group["commands"]}
    shorter = {each["say"]: each["run"] for each in content["shorter"]}
    return Exceptions(reasons, content["not_commands"], content["programs"], shorter)


def all_commands(exceptions: Exceptions) -> list[Command]:
    """Every command of every page, in the order of the pages."""
    found = []
    for block in blocks():
        if block.first_line not in exceptions.not_commands:
            found += commands_of(block)
    return found
