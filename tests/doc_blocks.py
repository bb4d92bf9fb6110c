"""Runs the code blocks of Markdown pages as a reader would paste them, and compares what they say.

A page is read from top to bottom in a folder of its own:

- ``python`` blocks run in one namespace; where a call of print has a comment behind it, that is
  what it prints, or how it begins if the comment ends in "…";
- ``sh`` blocks run in the same folder, but for those that install something with pip, which are
  for ``.ci/run``;
- a block marked ``<!-- file: NAME -->`` is written there, and not run;
- a ``text`` block straight behind one that runs is what it printed, "…" standing for anything;
- a block marked ``<!-- not run: REASON -->`` is not.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?P<text>^<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$"
    r"(?:\n+```text\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code, its mark, and what it says that it prints."""

    mark: str
    language: str
    code: str
    shown: str | None

    @property
    def skipped(self) -> bool:
        """Whether it is not run here."""
        return self.mark.startswith("not run: ") or self.code.startswith("pip ")


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, with the files that it includes."""
    text = re.sub(
        r'^--8<-- "(.*?)"$',
        lambda found: (ROOT / found[1]).read_text().rstrip(),
        page.read_text(),
        flags=re.MULTILINE,
    )
    found = (match.group("mark", "language", "code", "shown") for match in BLOCK.finditer(text))
    return [Block(mark or "", language, code, shown) for mark, language, code, shown in found]


# Runs the blocks of pages, each page's in its folder, and says what each block and line printed.
READER = """
import contextlib, io, json, os, subprocess, sys
for folder, blocks in json.load(sys.stdin):
    os.chdir(folder)
    names = {"__name__": "__main__"}
    for where, language, code in blocks:
        out, lines = io.StringIO(), {}
        def printed(*words, **options):
            text = io.StringIO()
            print(*words, **{**options, "file": text})
            lines[sys._getframe(1).f_lineno] = text.getvalue()
            out.write(text.getvalue())
        if language == "python":
            names["print"] = printed
            exec(compile(code, where, "exec"), names)
        else:
            command = ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            out.write(done.stdout)
        print(json.dumps([where, out.getvalue(), lines]), flush=True)
"""


def read(pages: list[Path], folder: Path) -> None:
    """Run the blocks of pages, in one process for them all, and check what they print."""
    work, said = [], {}
    for page in pages:
        place = folder / page.stem
        place.mkdir(exist_ok=True)
        todo = []
        for number, block in enumerate(blocks(page), 1):
            where = f"{page.relative_to(ROOT)}, block {number}"
            if block.mark.startswith("file: "):
                (place / block.mark.removeprefix("file: ")).write_text(block.code)
            elif block.language in ("python", "sh") and not block.skipped:
                todo.append([where, block.language, block.code])
                said[where] = block
        work.append([str(place), todo])
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER],
        input=json.dumps(work),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wrong = []
    for where, printed, lines in map(json.loads, done.stdout.splitlines()):
        block = said[where]
        if block.shown is not None:
            pattern = re.escape(block.shown.strip()).replace("…", ".*?")
            if not re.fullmatch(pattern, printed.strip(), re.DOTALL):
                wrong.append(f"{where} says\n{block.shown}\nand prints\n{printed}")
        for number, line in enumerate(block.code.splitlines(), 1):
            comment = re.fullmatch(r" *print\(.*\)  # (.*?)(…?)", line)
            if comment and block.language == "python":
                shown = lines.get(str(number), "nothing").strip()
                begun = shown[: len(comment[1])] if comment[2] else shown
                if begun != comment[1]:
                    wrong.append(f"{where}: {line} … prints {shown}")
    assert not wrong, "\n".join(wrong)
