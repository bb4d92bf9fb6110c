"""The pages, in a real browser: headless Chromium, as a person uses them, with mouse and keys."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gainreg
from gainreg import Activation
from gainreg.cli import main
from gainreg.page import report_page, table_page
from gainreg.signals.report import SignalReport, WeightReport

for package in ("jinja2", "selenium"):
    pytest.importorskip(package, reason=f"pages are made and tested with {package}")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

HOSTILE = "<script>document.title = 'taken'</script><b onclick=\"x\">&amp;$\\x$"


class Page:
    """A page in the browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, file: Path, part: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(file.as_uri() + part)

    def look(self, width: int, scheme: str) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def row(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def names(self) -> list[str]:
        """The rows that are seen, from top to bottom."""
        script = "return [...document.querySelectorAll('.rows > tbody')].filter(r => !r.hidden)"
        return list(self.run(f"{script}.map(r => r.id || r.querySelector('.open').textContent)"))

    def column(self, key: str) -> list[str]:
        """What is written in a column of these rows."""
        script = "return [...document.querySelectorAll('.rows > tbody')].filter(r => !r.hidden)"
        cell = f"r.rows[0].querySelector('[data-key={key}]').textContent.trim()"
        return list(self.run(f"{script}.map(r => {cell})"))

    def clipboard(self) -> str:
        script = "navigator.clipboard.readText().then(arguments[0])"
        return str(self.driver.execute_async_script(script))


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed: apt install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": permissions})
    yield Page(driver)
    driver.quit()


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The browser, which must have had nothing to complain of and nothing to load at the end."""
    browser.look(1280, "light")
    yield browser
    assert browser.driver.get_log("browser") == []
    events = [json.loads(it["message"])["message"] for it in browser.driver.get_log("performance")]
    asked = [it["params"]["request"]["url"] for it in events if it["method"].endswith("BeSent")]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
    assert len([url for url in asked if url.startswith("file:")]) == 1  # the page itself


@pytest.fixture(scope="module")
def gains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the table that gainreg ships, by the command."""
    file = tmp_path_factory.mktemp("page") / "gains.html"
    assert main(["page", "-o", str(file)]) == 0
    return file


# --- the table ---


def test_the_page_of_all_built_ins_is_one_small_file(page: Page, gains: Path) -> None:
    assert gains.stat().st_size < 1_000_000
    page.open(gains)
    assert len(page.names()) == len(gainreg.load_table().listings)
    assert page.one("#count").text == "61 of 61"


def test_search_finds_names_aliases_families_and_papers(page: Page, gains: Path) -> None:
    page.open(gains)
    page.press("/")
    page.press("hendrycks")
    assert page.names() == ["gelu", "gelu_tanh", "quick_gelu"]
    assert page.one("#count").text == "3 of 61"
    page.press(" TANH")  # all words
    assert page.names() == ["gelu_tanh"]
    page.press(Keys.CONTROL, "a")
    page.press("swish")
    assert "silu" in page.names()
    page.press("no such thing")
    assert page.names() == []
    assert page.one("#nothing").is_displayed()


def test_a_click_on_a_head_sorts_and_another_turns_round(page: Page, gains: Path) -> None:
    page.open(gains)
    head = page.all(".rows > thead th")[1]
    for direction in ("ascending", "descending"):
        head.find_element(By.TAG_NAME, "button").click()
        assert head.get_attribute("aria-sort") == direction
        column = page.column("gain")
        known = [float(text) for text in column if text != "–"]
        assert known == sorted(known, reverse=direction == "descending")
        assert column[len(known) :] == ["–"] * 6  # what has no number stands last
    page.all(".rows > thead button")[0].click()
    assert page.names() == sorted(page.names())


def test_the_std_chosen_is_that_of_the_numbers_seen(page: Page, gains: Path) -> None:
    page.open(gains)
    for std in (2.0, 0.5):
        Select(page.one("#std")).select_by_value(str(std))
        number = page.row("elu(alpha=1)").find_element(By.CSS_SELECTOR, "[data-key=gain] button")
        assert float(number.get_attribute("data-copy") or "") == gainreg.gain("elu", std)


def test_an_activation_opens_to_its_formula_curves_and_entries(page: Page, gains: Path) -> None:
    page.open(gains)
    row = page.row("elu(alpha=1)")
    inside = row.find_element(By.CSS_SELECTOR, ".inside")
    assert not inside.is_displayed()
    row.find_element(By.CSS_SELECTOR, ".open").click()
    assert inside.is_displayed()
    assert "x for x > 0, else alpha·(eˣ − 1); Clevert" in inside.text
    charts = row.find_elements(By.CSS_SELECTOR, "[role=img]")
    assert [chart.get_attribute("aria-label") for chart in charts] == [
        "φ and φ′ of elu(alpha=1) over x",
        "gain of elu(alpha=1) over std",
        "variance_slope and gradient_factor of elu(alpha=1) over std",
    ]
    entry = gainreg.load_table().lookup("elu", 2.0)
    cells = row.find_element(By.CSS_SELECTOR, "[data-std='2.0']")
    for key in ("gain", "centered_gain", "critical_bias_std", "mean"):
        button = cells.find_element(By.CSS_SELECTOR, f"[data-key={key}] button")
        assert float(button.get_attribute("data-copy") or "") == getattr(entry, key)
    row.find_element(By.CSS_SELECTOR, ".open").click()
    assert not inside.is_displayed()


def test_curves_go_through_the_entries_of_the_table(page: Page, gains: Path) -> None:
    page.open(gains, "#tanh")
    chart = page.row("tanh").find_elements(By.CSS_SELECTOR, "[role=img] > svg")[1]
    path = chart.find_element(By.CSS_SELECTOR, "path.line-0").get_attribute("d") or ""
    dots = [
        (float(it.get_attribute("cx") or ""), float(it.get_attribute("cy") or ""))
        for it in chart.find_elements(By.TAG_NAME, "circle")
    ]
    assert len(dots) == 3
    for x, y in dots:
        assert f"{x} {y}" in path
    assert dots[0][1] > dots[1][1] > dots[2][1]  # upwards: tanh's gain grows with std


def test_a_link_to_an_activation_opens_it(page: Page, gains: Path) -> None:
    page.open(gains, "#elu(alpha=1)")
    assert page.row("elu(alpha=1)").find_element(By.CSS_SELECTOR, ".inside").is_displayed()


def test_buttons_copy_the_number_and_lines_of_code_that_run(page: Page, gains: Path) -> None:
    page.open(gains, "#gelu")
    row = page.row("gelu")
    row.find_element(By.CSS_SELECTOR, "td[data-key=gain] button").click()
    assert page.clipboard() == repr(gainreg.gain("gelu"))
    assert page.one("#said").text == f"Copied: {gainreg.gain('gelu')!r}"
    lines = {}
    for button in row.find_elements(By.CSS_SELECTOR, "[data-std='0.5'] .code button"):
        button.click()
        lines[button.text] = page.clipboard()
    assert list(lines) == ["PyTorch", "JAX", "Keras"]

    expected = gainreg.gain("gelu", 0.5) / np.sqrt(400)
    torch = pytest.importorskip("torch", reason="a line is for PyTorch")
    layer = torch.nn.Linear(400, 500)
    exec(lines["PyTorch"], {"torch": torch, "layer": layer})
    assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.02)
    jax = pytest.importorskip("jax", reason="a line is for JAX")
    drawn = eval(lines["JAX"], {"jax": jax})(jax.random.key(0), (400, 500))
    assert float(drawn.std()) == pytest.approx(expected, rel=0.02)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="a line is for Keras")
    drawn = keras.ops.std(eval(lines["Keras"], {"keras": keras})((400, 500)))
    assert float(drawn) == pytest.approx(expected, rel=0.02)


def test_all_is_done_by_keys_alone(page: Page, gains: Path) -> None:
    page.open(gains)
    page.press("/")
    page.press("sigmoid")
    focus = "return document.activeElement.closest('tbody')?.id"
    while page.run(focus) is None:
        page.press(Keys.TAB)
    first, second = page.names()[:2]
    assert page.run(focus) == first
    page.press(Keys.ARROW_DOWN)
    assert page.run(focus) == second
    page.press(Keys.ENTER)
    assert page.row(second).find_element(By.CSS_SELECTOR, ".inside").is_displayed()
    page.press(Keys.TAB)  # to the number beside the name
    page.press(Keys.ENTER)
    name = second.partition("(")[0]
    assert page.clipboard() == repr(gainreg.gain(name))
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"


def test_what_has_the_focus_is_not_hidden_by_the_head(page: Page, gains: Path) -> None:
    page.open(gains, "#gelu")
    below = """
        const head = document.querySelector(".rows > thead").getBoundingClientRect();
        return document.activeElement.getBoundingClientRect().top >= head.bottom;"""
    page.run("document.querySelector('#gelu .open').focus()")
    assert page.run(below)
    for key in [Keys.ARROW_UP] * 12 + [Keys.SHIFT + Keys.TAB] * 8:
        page.press(key)
        assert page.run(below), page.run("return document.activeElement.textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_and_fits_a_narrow_screen(page: Page, gains: Path, scheme: str) -> None:
    page.look(390, scheme)
    page.open(gains, "#elu(alpha=1)")
    assert page.run("return document.documentElement.scrollWidth") == 390
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    ground, ink = (int(re.findall(r"\d+", it)[0]) for it in page.run(colours))
    assert (ground > ink) == (scheme == "light")
    assert abs(ground - ink) > 150


def test_a_table_of_what_is_not_known_here_has_a_page_that_says_so(
    page: Page, tmp_path: Path, fresh_host: None
) -> None:
    mine = Activation("cube_root", lambda x, a: a * np.cbrt(x), {"a": 1.0})
    items = [(mine, {"a": 1}), (mine, {"a": 2}), ("elu", {"alpha": 0.5}), "elu"]
    table = gainreg.build_table(items, stds=[1e-3, 3.0])
    file = tmp_path / "mine.html"
    file.write_text(table_page(table, "Mine"))
    page.open(file, "#cube_root(a=2)")
    assert page.names() == ["cube_root(a=1)", "cube_root(a=2)", "elu(alpha=0.5)", "elu(alpha=1)"]
    inside = page.row("cube_root(a=2)").find_element(By.CSS_SELECTOR, ".inside")
    assert "No curves: no activation is called 'cube_root'" in inside.text
    assert page.column("gain")[1] == f"{table.lookup('cube_root', 3.0, a=2).gain:.5g}"


def test_an_empty_table_has_a_page(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "empty.html"
    file.write_text(table_page(gainreg.build_table([]), "Nothing"))
    page.open(file)
    assert page.one("#count").text == "0 of 0"


def test_what_plugins_and_files_are_called_is_text_and_never_code(
    page: Page, tmp_path: Path, fresh_host: None
) -> None:
    gainreg.register(Activation("twice", lambda x: 2 * x, reference=HOSTILE))
    file = tmp_path / "hostile.html"
    file.write_text(table_page(gainreg.build_table(["twice"]), HOSTILE))
    page.open(file, "#twice")
    assert page.driver.title == HOSTILE
    assert page.one("h1").text == HOSTILE
    assert page.one(".formula").text == HOSTILE
    assert page.all("script")[1:] == page.all("main b") == []


def test_the_command_writes_a_file_or_prints_and_names_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gainreg.build_table(["tanh"]).write(tmp_path / "t.yaml")
    os.symlink(tmp_path / "real.html", tmp_path / "t.html")
    assert main(["page", str(tmp_path / "t.yaml"), "-o", str(tmp_path / "t.html")]) == 0
    assert (tmp_path / "t.html").is_symlink()  # written as tables are
    assert main(["page", str(tmp_path / "t.yaml")]) == 0
    assert capsys.readouterr().out.endswith((tmp_path / "real.html").read_text() + "\n")
    assert main(["page", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read table" in capsys.readouterr().err
    assert main(["page", str(tmp_path / "t.yaml"), "-o", str(tmp_path / "no/t.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


# --- the report ---


def weight(name: str, **facts: Any) -> WeightReport:
    usual = WeightReport(
        name=name, operation="linear", fan_in=64.0, weight_std=0.125, fed_by="data", input_rms=1.0,
        output_rms=1.0, gradient_rms=1.0, spread=0.1, elements=64, correlation=0.0, exact=True,
        note="",
    )  # fmt: skip
    return WeightReport(**{**vars(usual), **facts})


def test_a_report_has_its_warnings_its_table_and_its_parameters(page: Page, tmp_path: Path) -> None:
    report = SignalReport(
        weights=(
            weight("first", measured_input_rms=1.02, note="a note"),
            weight("second", input_rms=20.0, gradient_rms=0.25, exact=False),
            weight("third", input_rms=3.0, correlation=0.99),
        ),
        parameters={"first": ("set", "because"), "bias": ("zeroed", "bias of first")},
        warnings=("the signal grows", "something else"),
    )
    report.to_html(tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    assert [it.text for it in page.all(".warnings li")] == list(report.warnings)
    picture = page.one(".picture svg")
    assert picture.is_displayed()
    assert {"predicted", "measured", "second"} <= set(picture.text.split("\n"))
    assert page.names() == ["first", "second", "third"]
    page.all(".rows > thead button")[3].click()
    assert page.names() == ["first", "third", "second"]
    page.one("#search").send_keys("note")
    assert page.names() == ["first"]
    page.one(".open").click()
    inside = page.all(".inside")[0]
    assert "a note" in inside.text
    page.one("summary").click()
    assert page.all("details tbody tr")[1].text == "bias zeroed bias of first"
    marks = "return [...document.querySelectorAll('.rows > tbody')].map(r => r.rows[0].cells[6]"
    assert page.run(f"{marks}.textContent)") == ["", "=", "↑~"]


def test_what_a_model_calls_its_weights_is_text_and_never_code(page: Page, tmp_path: Path) -> None:
    hostile = weight(HOSTILE, operation=HOSTILE, fed_by=HOSTILE, note=HOSTILE)
    report = SignalReport((hostile,), {HOSTILE: (HOSTILE, HOSTILE)}, (HOSTILE,))
    file = tmp_path / "hostile.html"
    file.write_text(report_page(report, HOSTILE))
    page.open(file)
    assert page.driver.title == HOSTILE
    assert page.one(".warnings li").text == HOSTILE
    assert page.one(".open").text == HOSTILE
    assert page.all("script")[1:] == page.all("b") == []


def test_a_report_fits_a_narrow_screen(page: Page, tmp_path: Path) -> None:
    report = SignalReport((weight("a.very.long.name" * 10),), {"w" * 200: ("set", "r" * 300)}, ())
    report.to_html(tmp_path / "report.html")
    page.look(390, "dark")
    page.open(tmp_path / "report.html")
    page.one("summary").click()
    assert page.run("return document.documentElement.scrollWidth") == 390


def test_without_jinja_a_page_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(gainreg.GainregError, match="pip install --upgrade jinja2"):
        table_page(gainreg.build_table([]), "Nothing")


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(gainreg.ParameterError, match="cannot write"):
        SignalReport((), {}, ()).to_html(tmp_path / "no" / "report.html")
