"""The README's commands and blocks run as a reader would paste them; what it links to is there."""

import re
import subprocess
import sys
from pathlib import Path

from doc_blocks import ROOT, blocks, read

import gainreg

README = ROOT / "README.md"


def test_every_block_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    read([README], tmp_path)


def test_the_set_up_command_ends_in_a_table(tmp_path: Path) -> None:
    first = next(block.code for block in blocks(README) if block.language == "sh")
    install, build = first.strip().split(" && ")
    assert install == "pip install ."
    subprocess.run([sys.executable, "-m", *build.split()], cwd=tmp_path, check=True)
    assert len(gainreg.load_table(tmp_path / "gains.yaml")) == len(gainreg.load_table())


def test_it_is_in_the_order_in_which_it_is_needed() -> None:
    text = README.read_text()
    parts = ["](docs/images/signal.png)", "```sh\npip install .", "\n## "]
    assert sorted(parts, key=text.index) == parts
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["A whole model", "Three jobs", "All else"]


def test_what_it_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)", README.read_text()):
        assert (ROOT / link).is_file()
