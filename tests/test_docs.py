"""The documentation's code blocks run, and its site builds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks, read

PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_every_block_of_the_site_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    read([page for page in PAGES if "measured" not in page.parts], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        tested = block.language in ("python", "sh", "text", "js") or block.mark.startswith("file: ")
        assert tested or re.match("not run: .+", block.mark), block


def test_the_site_builds_strictly_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"(?:https?:)?//([^\"]*)")
    for page in tmp_path.rglob("*.html"):
        hosts = [url for url in loaded.findall(page.read_text()) if "canonical" not in url]
        assert not hosts, (page, hosts)
    assert "softplus" in (tmp_path / "gallery" / "index.html").read_text()
