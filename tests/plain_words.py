"""Find sentences that are too long, and phrases that make a reader guess: ``python -m tests.plain_words FILES``.

The command reads docstrings and comments of Python, comments of C++, CUDA and shell, and the text of Markdown pages.
Code blocks, tables, headings and URLs are left out. Inline code counts as one word.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 25  # in a sentence
SUFFIXES = {".py", ".md", ".cpp", ".cu", ".h", ".cuh", ".sh"}
RIDDLES = re.compile(
    r"\b(those of|that of|what is of|that which|whoever|whatever it|what it takes|of which|of whose|as ever|"
    r"not with which|those that|what there is|be it)\b",
    re.IGNORECASE,
)
# A section's title and the name of an argument are not a part of a sentence.
SECTION = re.compile(r"^(Args|Arguments|Returns|Raises|Yields|Example|Examples|Note|Notes|Attributes|Shape|Shapes):$")
ENTRY = re.compile(r"^\*{0,2}[\w.]+(?: \([^)]*\))?(?:, [\w.]+)*: ")
CLAUSE = re.compile(r"(What|How|Which|Where|Who|When) (?!.*\?)")  # a first line is an imperative or a noun
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|cf|vs|etc|Fig|Eq|Sec|No)\.", re.IGNORECASE)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a paragraph, with ``CODE`` in place of inline code.

    A semicolon does not end a sentence.
    """
    text = re.sub(r"``.+?``|`[^`]+`", "CODE", text)
    text = re.sub(r"https?://\S+", "", text)
    # A link in Markdown is read as its text.
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = ABBREVIATION.sub(lambda found: found.group(1).replace(".", ""), text)
    yield from (part for part in re.split(r"(?<=[.!?])[)\"']*\s+(?=[A-Z\d(\"'`])", " ".join(text.split())) if part)


def words(sentence: str) -> int:
    """Return the number of words of a sentence; signs and numbers do not count."""
    return sum(1 for word in sentence.split() if re.search(r"[A-Za-z]{2}|\b[aAI]\b", word))


def paragraphs(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Yield (line, paragraph) of a docstring or a Markdown page, without code blocks, tables and headings.

    Args:
        text: the docstring or page.
        first: the number of its first line.
    """
    lines: list[str] = []
    start, fenced, code_indent = first, False, None
    for number, raw in enumerate(text.splitlines(), first):
        line, indent = raw.strip(), len(raw) - len(raw.lstrip())
        if line.startswith(("```", "~~~")):
            fenced = not fenced
            line = ""
        if fenced:
            continue
        if code_indent is not None:
            if not line or indent > code_indent:
                continue
            code_indent = None
        # A list's entry, a quotation and an argument's description are paragraphs of their own.
        starts_anew = (
            not line
            or SECTION.match(line)
            or ENTRY.match(line)
            or re.match(r"([-*+]|\d+\.) |[|#<>!]|>>>|\.\.\. ", line)
        )
        if starts_anew and lines:
            yield start, " ".join(lines)
            lines = []
        if not line or SECTION.match(line) or re.match(r"[|#<!]|>>>|\.\.\. |---", line):
            continue
        if not lines:
            start = number
        lines.append(re.sub(r"^([-*+>]|\d+\.) ", "", line))
        if line.endswith("::"):
            yield start, " ".join(lines)
            lines, code_indent = [], indent
    if lines:
        yield start, " ".join(lines)


def python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every docstring and of every block of comments of Python code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[0] if node.body else None
            if (
                isinstance(body, ast.Expr)
                and isinstance(body.value, ast.Constant)
                and isinstance(body.value.value, str)
            ):
                yield body.lineno, body.value.value
    block: list[str] = []
    last, start = -1, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"#(!| noqa| type:|\s*-{3,}|\s*%%)", token.string):
            continue
        comment = re.sub(r"# (noqa|type: ignore|pragma).*", "", token.string).lstrip("# ").strip()
        alone = token.line.strip().startswith("#")
        if block and not (alone and token.start[0] == last + 1):
            yield start, " ".join(block)
            block = []
        if not block:
            start = token.start[0]
        block.append(comment)
        last = token.start[0] if alone else -1
    if block:
        yield start, " ".join(block)


def comment_texts(source: str, mark: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every block of comments, and of every comment behind code.

    Args:
        source: the code.
        mark: the signs that begin a comment: "//" or "#".
    """
    block: list[str] = []
    start = 0
    for number, line in enumerate([*source.splitlines(), ""], 1):
        found = re.match(rf"\s*(?:{mark})+ ?(.*)", line)
        if found and not re.match(r"-{3,}|!", found.group(1)):
            start = start if block else number
            block.append(found.group(1))
            continue
        if block:
            yield start, " ".join(block)
            block = []
        if trailing := re.search(rf"\S\s+{mark} ?(.*)", line):
            yield number, trailing.group(1)


def faults(file: Path) -> Iterator[str]:
    """Yield "FILE:LINE: FAULT: SENTENCE" for each sentence that is too long, is a riddle or begins with a clause."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        texts = python_texts(source)
    elif file.suffix == ".md":
        texts = iter([(1, source)])
    else:
        texts = comment_texts(source, "#" if file.suffix == ".sh" else "//")
    for first, text in texts:
        if file.suffix == ".py" and (found := CLAUSE.match(text.strip())):
            yield f"{file}:{first}: begins with {found.group(1)!r}: {text.strip().splitlines()[0]}"
        for line, paragraph in paragraphs(text, first):
            for sentence in sentences(paragraph):
                if (count := words(sentence)) > MOST_WORDS:
                    yield f"{file}:{line}: {count} words: {sentence}"
                if found := RIDDLES.search(sentence):
                    yield f"{file}:{line}: {found.group(0)!r}: {sentence}"


def comments_per_100(file: Path) -> float:
    """Return the number of comments on 100 lines of a Python file; docstrings are not comments."""
    source = file.read_text(encoding="utf-8")
    count = sum(
        token.type == tokenize.COMMENT and "noqa" not in token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
    )
    return 100 * count / max(1, source.count("\n"))


def main(names: list[str]) -> int:
    """Print the faults of files, and of all files in folders; return the exit code: 1 if there are any."""
    files = [
        file
        for name in map(Path, names)
        for file in (sorted(name.rglob("*")) if name.is_dir() else [name])
        if file.suffix in SUFFIXES
    ]
    found = [fault for file in files for fault in faults(file)]
    print("\n".join(found))
    python = [file for file in files if file.suffix == ".py"]
    if python:
        print(f"comments on 100 lines: {sum(map(comments_per_100, python)) / len(python):.1f} (mean over files)")
    print(f"{len(found)} faults in {len(files)} files")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
