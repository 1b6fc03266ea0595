"""The page for people, in Chromium."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.by import By

from tests.functional.browser import Browser, browser
from tests.functional.launching import SECONDS, until
from tests.functional.rest_servers import half_plus_two, model_config, rest_serving, wait_for
from tests.functional.rest_stand_in import rest_stand_in
from tests.known_models import HALF_PLUS_TWO, Batched, Declares, KnownModels, signature_def

HOSTILE = "<img src=x onerror=\"document.title='owned'\">'"
HOSTILE_PATH = "%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D'owned'%22%3E'"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def rest_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a server of half_plus_two (versions 1 and 2, of which 1 is labelled "stable"),
    a model named HOSTILE, the same as half_plus_two, and one that could not be loaded."""
    folder = tmp_path_factory.mktemp("models") / "</td><b>bold<"
    version = folder / "b>" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"no SavedModel")
    config = half_plus_two() + half_plus_two(HOSTILE) + model_config("broken", version.parent)
    with rest_serving(config=config, errors_are_meant=True) as server:
        address = server.rest_address()
        for place in ("half_plus_two/versions/1", "half_plus_two/versions/2", HOSTILE_PATH):
            wait_for(address, f"/v1/models/{place}/metadata")
        server.line_with("broken version 1")
        yield address


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def page(opened: Browser, rest_address: str) -> Iterator[Browser]:
    """The page with half_plus_two. At the end nothing has gone wrong in it, nothing was asked of
    anybody else."""
    opened.chrome.get("about:blank")
    opened.forget()
    opened.show_as(1280, 1400, "light")
    opened.open(rest_address, "half_plus_two")
    until(lambda: opened.value("body") != "")
    yield opened
    assert opened.complaints() == []
    assert {urlsplit(url).netloc for url in opened.requests()} == {rest_address}


def test_lists_the_models_and_shows_the_chosen_one(page: Browser) -> None:
    assert sorted(page.texts("#list .name")) == sorted(["broken", "half_plus_two", HOSTILE])
    assert page.text("name") == "half_plus_two"
    assert page.text("state") == "available"
    assert page.texts("#versions td") == ["2", "available", "", "1", "available", "stable"]
    assert page.texts("#signatures h4 .name")[:2] == ["serving_default", "classify"]
    assert page.texts("#signatures div:first-child > .scroll tbody td") == [
        *("in", "x", "float", "[?, 1]"),
        *("out", "y", "float", "[?, 1]"),
    ]


def test_fills_in_an_example_sends_it_and_shows_the_answer(page: Browser) -> None:
    assert json.loads(page.value("body")) == {"instances": [[1.0]]}
    page.write('{"instances": [[1.0], [2.0], [5.0]]}')
    assert page.send().startswith("200 · ")
    assert json.loads(page.text("answer")) == {"predictions": [[2.5], [3.0], [4.5]]}


def test_every_signature_and_method_has_an_example_that_is_answered(page: Browser) -> None:
    for name in ("flat", "regress", "classify"):
        page.choose("signature", name)
        until(lambda name=name: f'"{name}"' in page.value("body"))  # type: ignore[misc]
        verb = page.choices("verb")[-1]
        page.choose("verb", verb)
        until(lambda verb=verb: page.text("curl").endswith(f":{verb}'"))  # type: ignore[misc]
        assert page.send().startswith("200 · ")
    assert "results" in json.loads(page.text("answer"))


def test_asks_the_version_or_label_that_is_chosen(page: Browser, rest_address: str) -> None:
    assert page.choices("target") == ["latest (2)", "2", "1", "stable (1)"]
    for target, place in (("1", "/versions/1"), ("stable (1)", "/labels/stable")):
        page.choose("target", target)
        address = f"http://{rest_address}/v1/models/half_plus_two{place}:predict"
        until(lambda address=address: address in page.text("curl"))  # type: ignore[misc]
        assert page.send().startswith("200 · ")
        assert address in page.requests()


def test_the_columnar_form_has_an_example_too(page: Browser) -> None:
    page.choose("format", "inputs (columns)")
    assert json.loads(page.value("body")) == {"inputs": {"x": [[1.0]]}}
    assert page.send().startswith("200 · ")
    assert json.loads(page.text("answer")) == {"outputs": [[2.5]]}


def test_the_curl_line_does_the_same(page: Browser) -> None:
    page.write('{"instances": [[1.0]], "it\'s \\"$(id)\\" `id`": "\\\\"}')
    command = page.text("curl")
    words = shlex.split(command)
    assert words[:2] == ["curl", "--data-raw"]
    assert json.loads(words[2])['it\'s "$(id)" `id`'] == "\\"
    done = subprocess.run(
        ["sh", "-c", f"{command} --silent --fail"], capture_output=True, check=True, text=True
    )
    assert json.loads(done.stdout) == {"predictions": [[2.5]]}


def test_shows_what_is_wrong_with_a_request(opened: Browser, page: Browser) -> None:
    page.write('{"instances": "<b>bold</b>"}')
    assert page.send().startswith("400 refused · ")
    assert "<b>bold</b>" in page.text("answer")
    (complaint,) = page.complaints()  # Chromium tells of every status above 399
    assert "400" in complaint
    page.complaints().clear()


def test_shows_requests_and_latencies(page: Browser) -> None:
    page.send()
    asked = ["2", "serving_default", "Predict", "REST"]
    until(lambda: any(row[:4] == asked and int(row[8]) > 0 for row in page.rows("traffic")))
    until(lambda: page.text("p50").endswith(("µs", "ms")))


def test_percentiles_lie_between_the_bounds_of_their_buckets(page: Browser) -> None:
    def percentile(counts: list[list[int]], part: float) -> object:
        return page.script("return percentile(arguments[0], arguments[1]) ?? null", counts, part)

    assert percentile([[0, 50], [1, 50]], 0.5) == pytest.approx(10)
    assert percentile([[0, 50], [1, 50]], 0.75) == pytest.approx(14)
    assert percentile([[1, 1], [2, 98], [5, 1]], 0.99) == pytest.approx(32.4)
    assert percentile([], 0.5) is None
    beyond = 10 * 1.8**32  # has no bound above it
    assert percentile([[33, 7]], 0.5) == pytest.approx(beyond)


@pytest.mark.parametrize(
    "text",
    [
        '{"predictions": [NaN, -Infinity, 9007199254740993, 1e+06]}',
        r'{"outputs": {"a\"]}": ["\u00e9, [1,2]", "\\"], "b": [], "c": {}}}',
        '{"outputs": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}',
    ],
)
def test_answers_are_laid_out_and_not_changed(page: Browser, text: str) -> None:
    for long in (text, text.replace("[", "[" + "1, " * 40, 1)):
        pretty = page.script("return pretty(arguments[0])", long)
        assert max(map(len, pretty.split("\n"))) < 80
        assert without_space(pretty) == without_space(long)
        assert repr(json.loads(pretty)) == repr(json.loads(long))  # NaN is equal to nothing


NO_JSON = ["", "no JSON", '{"cut": [1, ', "[1] 2", '"open', "]", "[" * 50_000]


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_stays_as_it_is(page: Browser, text: str) -> None:
    assert page.script("return pretty(arguments[0])", text) == text


def without_space(text: str) -> str:
    return "".join(text.split())


def test_shows_why_a_model_is_not_there(page: Browser, rest_address: str) -> None:
    page.open(rest_address, "broken")
    until(lambda: page.texts("#name") == ["broken"])
    assert page.text("state") == "failed"
    (error,) = page.texts("#versions .error")
    assert "</td><b>bold</b>" in error
    until(lambda: page.text("try-title") == "Try it: no version is available")
    assert not page.is_seen("form")


def test_names_are_text_and_never_html(page: Browser, rest_address: str) -> None:
    page.open(rest_address, HOSTILE_PATH)
    until(lambda: page.texts("#name") == [HOSTILE])
    until(lambda: page.value("body") != "")
    assert page.send().startswith("200 · ")
    assert page.texts("img") == []
    assert page.chrome.title == f"{HOSTILE} · tfsrv"
    command = page.text("curl")
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == {"predictions": [[2.5]]}


def test_a_model_that_is_gone_is_said_to_be(page: Browser, rest_address: str) -> None:
    page.open(rest_address, "nobody")
    until(lambda: "nobody" in page.text("none-text"))
    assert any("404" in complaint for complaint in page.complaints())
    page.complaints().clear()


def test_can_be_used_without_a_mouse(page: Browser) -> None:
    page.write('{"instances": [[3.0]]}')
    page.one("body").send_keys("\ue009\ue007")  # Ctrl+Enter
    until(lambda: page.text("outcome").startswith("200 · "))
    assert json.loads(page.text("answer")) == {"predictions": [[3.5]]}


def test_everything_has_a_name_for_who_cannot_see_it(page: Browser) -> None:
    fields = "select, textarea, input, button, a, pre, svg"
    nameless = page.script(
        """return [...document.querySelectorAll(arguments[0])].filter((each) => !(
            each.labels?.length || each.textContent.trim() || each.getAttribute("aria-label")
            || each.getAttribute("aria-labelledby"))).map((each) => each.outerHTML)""",
        fields,
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_text_has_contrast(page: Browser, scheme: str) -> None:
    """4.5 to 1: https://www.w3.org/TR/WCAG22/#contrast-minimum"""
    page.show_as(1280, 1400, scheme)
    page.send()
    poor = page.script(CONTRAST)
    assert poor == []


@pytest.mark.parametrize("width", [320, 390, 700, 1280])
def test_nothing_is_wider_than_the_screen(page: Browser, width: int) -> None:
    page.show_as(width, 900, "light")
    page.send()
    widest = page.script("return document.documentElement.scrollWidth")
    assert widest <= width


def test_a_lost_connection_is_told_and_found_again(
    opened: Browser, rest_address: str, tmp_path: Path
) -> None:
    opened.open(rest_address, "half_plus_two")
    until(lambda: opened.text("server") == "serving")
    opened.chrome.execute_cdp_cmd("Network.enable", {})
    opened.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline(True))
    until(lambda: "Connection lost: retrying" in opened.text("banner"))
    assert opened.text("server") == "not connected"
    opened.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline(False))
    until(lambda: opened.text("server") == "serving" and not opened.is_seen("banner"))


def offline(is_offline: bool) -> dict[str, object]:
    return {
        "offline": is_offline,
        "latency": 0,
        "downloadThroughput": -1,
        "uploadThroughput": -1,
    }


def test_says_that_there_are_no_models(opened: Browser) -> None:
    with rest_stand_in(KnownModels()) as address:
        opened.open(address)
        until(
            lambda: opened.texts("#none-text") == ["No models are loaded, and none is configured."]
        )


def test_says_that_the_server_drains(opened: Browser) -> None:
    drains: list[bool] = []
    with rest_stand_in(KnownModels(), is_draining=lambda: bool(drains)) as address:
        opened.open(address)
        until(lambda: opened.text("server") == "serving")
        drains.append(True)
        until(lambda: opened.text("server") == "draining: it takes no new requests")


def test_shows_batches(opened: Browser) -> None:
    models = KnownModels()
    models.add("batched", {7: Declares(serving_default=HALF_PLUS_TWO)})
    with rest_stand_in(models, [Batched()]) as address:
        opened.open(address)
        until(lambda: opened.texts("#batches td") != [])
        cells = opened.texts("#batches td")
        assert cells[:4] == ["7", "serving_default", "3", "4.00"]
        assert cells[-1].startswith("batches of up to 32 rows")
        (sizes,) = opened.chrome.find_elements(By.CSS_SELECTOR, "#batches .sizes")
        assert sizes.get_attribute("aria-label") == "1 rows: 1 batches\n4–7 rows: 2 batches"


def test_asks_nothing_while_nobody_looks(page: Browser) -> None:
    hide = """Object.defineProperty(document, "hidden", {value: arguments[0], configurable: true});
        document.dispatchEvent(new Event("visibilitychange"))"""
    page.script(hide, True)
    before = len(page.requests())
    page.chrome.set_script_timeout(SECONDS)
    page.chrome.execute_async_script("setTimeout(arguments[0], 4000)")  # two looks, otherwise
    assert len(page.requests()) == before
    page.script(hide, False)
    until(lambda: len(page.requests()) > before)


def test_what_was_written_stays_when_another_version_comes(opened: Browser) -> None:
    models = KnownModels()
    servable = Declares(serving_default=HALF_PLUS_TWO, other=HALF_PLUS_TWO)
    models.add("m", {1: servable})
    with rest_stand_in(models) as address:
        opened.open(address)
        until(lambda: opened.value("body") != "")
        opened.write("mine")
        models.add("m", {1: servable, 2: servable})
        until(lambda: opened.choices("target") == ["latest (2)", "2", "1"])
        until(lambda: opened.text("signatures-of") == "version 2")
        assert opened.value("body") == "mine"
        opened.choose("signature", "other")
        until(lambda: opened.value("body") != "mine")
        assert json.loads(opened.value("body"))["signature_name"] == "other"


def test_a_thousand_models_are_found_by_their_names(opened: Browser) -> None:
    models = KnownModels()
    servable = Declares(
        serving_default=HALF_PLUS_TWO,
        image=signature_def({"x": ("uint8", [None, 224, 224, 3])}, {"y": ("float", [None])}),
    )
    for number in range(1000):
        models.add(f"model_{number:03}", {1: servable})
    with rest_stand_in(models) as address:
        opened.open(address)
        until(lambda: "and 900 more" in opened.text("more"))
        opened.one("search").send_keys("77")
        assert len(opened.texts("#list li")) == 19
        opened.script("document.querySelector('#list li a').focus()")
        opened.chrome.switch_to.active_element.send_keys("\ue007")
        until(lambda: opened.texts("#name") == ["model_077"])
        until(lambda: opened.value("body") != "")
        opened.choose("signature", "image")
        until(lambda: len(opened.value("body")) > 400_000)
        assert "@request.json" in opened.text("curl")


# Of every text that is seen: its colour against that of the nearest ground that has one.
CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
const ground = (at) => {
  for (; at; at = at.parentElement) {
    const c = rgb(getComputedStyle(at).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
return [...document.body.querySelectorAll("*")].filter((each) =>
    each.checkVisibility() && !each.disabled
    && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((each) => [each, light(rgb(getComputedStyle(each).color)), light(ground(each))])
  .filter(([, a, b]) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5)
  .map(([each]) => each.outerHTML.slice(0, 120));
"""
