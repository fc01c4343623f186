"""The report in a real Chromium, opened from disk, on a desktop and on a phone: what it does when it is used."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, quote

import numpy as np
import pytest

from linearsr.comparison.report import MetricColumn, Report, ReportImage, write_report

HEIGHT, WIDTH = 160, 240
LABELS = ("original", "red <b>&amp;</b>", "blue")
RED, BLUE, ORIGINAL = (200, 40, 30), (20, 60, 170), (90, 90, 90)
NAMES = (
    "plain10",
    "plain9",
    "</script><img src=x onerror=alert(1)>",
    "\u05e9\u05dc\u05d5\u05dd \u202e evil & 'quoted'",
    "x" * 90,
)
PSNR = (30.0, 9.5, 100.25, float("inf"), None)
"""Of red; the last picture has none."""
PLACES = ((16, 24, 32, 32), (180, 100, 32, 32))
SHIFT = 8


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report of five plainly coloured pictures by three methods, the pixels exactly as made."""
    metrics = (
        MetricColumn(name="psnr", title="PSNR-Y", unit="dB", digits=2, lower_better=False, definition="Of luma."),
        MetricColumn(
            name="lpips", title="LPIPS", unit="", digits=3, lower_better=True, definition="Learned <distance>."
        ),
    )
    images = []
    for index, (name, psnr) in enumerate(zip(NAMES, PSNR, strict=True)):
        pictures = {
            label: np.full((HEIGHT, WIDTH, 3), color, np.uint8)
            for label, color in zip(LABELS, (ORIGINAL, RED, BLUE), strict=True)
        }
        for picture in pictures.values():
            picture[60:100, 100:140] += 20  # a mark at the same place in all
        red = {} if psnr is None else {"psnr": psnr, "lpips": 0.1 * index}
        scores = {LABELS[1]: red, LABELS[2]: {"psnr": 20.0 + index, "lpips": 0.25}}
        images.append(
            ReportImage(
                name=name,
                width=WIDTH,
                height=HEIGHT,
                pictures=pictures,
                scores=scores,
                places=PLACES,
                notes=("<i>Note</i>",),
                enlarged={LABELS[2]: 2.0} if index == 1 else {},
                cut_from={LABELS[1]: (WIDTH + 2, HEIGHT + 1)} if index == 1 else {},
            )
        )
    path = tmp_path_factory.mktemp("report") / "r\u00e9port #1.html"
    size = write_report(
        path,
        Report(
            title="Red & <blue>",
            labels=LABELS,
            metrics=metrics,
            images=images,
            facts=(("Command", "linearsr compare <a> b"),),
            start=(LABELS[1], LABELS[2]),
        ),
    )
    assert size.encoding == "WebP lossless"
    return path


@pytest.fixture(params=["desktop", "phone"])
def device(request) -> str:
    return request.param


@pytest.fixture
def view(browser, page):
    """Open the report on a device; afterwards its console must be empty and nothing but the file was asked for."""

    def show(device="desktop", fragment="", **media):
        browser.open(page, device, fragment, **media)
        browser.settled()
        return browser

    yield show
    assert browser.console() == []
    assert [url for url in browser.requests() if not url.startswith(("file://", "data:", "about:"))] == []


def fragment(**values) -> str:
    return "#" + "&".join(f"{name}={quote(str(value))}" for name, value in values.items())


RED_BLUE = fragment(left=LABELS[1], right=LABELS[2])


def clip_left(browser) -> float:
    """From where the right picture is seen, in CSS pixels from the left of the stage."""
    return float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)px\)", browser.style("#right-layer", "clipPath"))[1])


def color_at(shot: np.ndarray, x: float, y: float) -> tuple[int, ...]:
    return tuple(int(value) for value in shot[round(y), round(x)])


def value_now(browser) -> float:
    return float(browser.attribute("#handle", "aria-valuenow"))


def transform(browser) -> tuple[float, float, float]:
    """(scale, x, y) that both pictures share."""
    both = browser.js(
        "return ['left', 'right'].map((s) => getComputedStyle(document.getElementById(s + '-picture')).transform)"
    )
    assert both[0] == both[1]
    a, b, c, d, x, y = (float(value) for value in both[0].removeprefix("matrix(").removesuffix(")").split(","))
    assert (a, b, c) == (d, 0, 0)
    return a, x, y


def zoom(browser) -> float:
    return transform(browser)[0] * browser.device.ratio


def look_at(browser, zoom_percent: int, x=120, y=80, device="desktop", **more):
    return browser(device, RED_BLUE + "&" + fragment(zoom=zoom_percent, x=x, y=y, **more)[1:])


def column(browser, index: int) -> list[str]:
    """Text of a column of the table's body, 0 is the name; without the word that marks the best."""
    script = "return [...document.querySelectorAll('#table tbody tr')].map((r) => r.children[arguments[0]].textContent)"
    return [text.removesuffix(" best") for text in browser.js(script, index)]


def test_page_opens_with_everything_as_text(view, device):
    b = view(device)
    assert b.driver.title == b.text("h1") == "Red & <blue>"
    assert b.js("return document.querySelectorAll('script').length") == 2
    assert b.js("return document.querySelectorAll('b, i, img[onerror], distance').length") == 0
    assert (b.text("#left-tag"), b.text("#right-tag")) == LABELS[1:]  # as told, not the first and the last
    assert column(b, 0) == list(NAMES)
    assert b.text("#notes") == "<i>Note</i>"
    assert [o for o in b.js("return [...document.querySelector('#left').options].map((o) => o.text)")] == list(LABELS)
    assert "linearsr compare <a> b" in b.text("footer")
    assert "every pixel is that of the file" in b.text("footer")
    assert b.js("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")


def test_what_was_done_to_a_picture_stands_beside_it_alone(view):
    b = view("desktop")
    notes = "return [...document.querySelectorAll('#notes li')].map((item) => item.textContent)"
    b.click("#next")
    assert b.js(notes) == ["blue: enlarged x2 by bicubic", f"{LABELS[1]}: cut from 242 x 161", "<i>Note</i>"]
    assert [o for o in b.js("return [...document.querySelector('#left').options].map((o) => o.text)")] == list(LABELS)
    b.click("#next")
    assert b.js(notes) == ["<i>Note</i>"]


def test_no_page_scrolls_sideways(view, device):
    b = view(device)
    b.js("scrollTo(1000, 0)")
    for _ in NAMES:
        scroll, client, inner, x = b.js(
            "const d = document.documentElement; return [d.scrollWidth, d.clientWidth, innerWidth, scrollX]"
        )
        assert (scroll, inner, x) == (client, b.device.width, 0)
        b.key("n")
    assert b.js("const s = document.querySelector('.scroll'); return s.scrollWidth >= s.clientWidth")


def test_page_cannot_reach_a_network(view, browser):
    b = view()
    blocked = b.driver.execute_async_script("""
        const done = arguments[0], seen = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          seen.push(event.effectiveDirective);
          if (seen.length === 4) done(seen.sort());
        });
        fetch("http://127.0.0.1:9/a").catch(() => {});
        new Image().src = "http://127.0.0.1:9/b.png";
        const script = document.createElement("script");
        script.textContent = "document.title = 'changed'";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<p style='color: red'>x</p>");
    """)
    assert blocked == ["connect-src", "img-src", "script-src-elem", "style-src-attr"]
    assert b.driver.title == "Red & <blue>"
    assert "http://127.0.0.1:9/b.png" in browser.requests()  # so the log of requests, empty elsewhere, sees attempts
    assert all("Content Security Policy" in entry["message"] for entry in browser.console())


def test_dragging_moves_the_divider_and_the_pictures_show_it(view, device):
    b = view(device, RED_BLUE)
    stage = b.box("#stage")
    middle = stage["top"] + stage["height"] / 2 + 60
    assert clip_left(b) == pytest.approx(stage["width"] / 2, abs=0.5)
    for target in (0.25, 0.8):
        start, end = stage["width"] * 0.6, stage["width"] * target
        b.drag([(stage["left"] + x, middle) for x in (start, (start + end) / 2, end)])
        assert clip_left(b) == pytest.approx(end, abs=1)
        handle = b.box("#handle")
        assert handle["left"] + handle["width"] / 2 - stage["left"] == pytest.approx(end, abs=1)
        assert value_now(b) == pytest.approx(100 * target, abs=1)
        shot = b.pixels("#stage")
        row = shot.shape[0] * 0.85
        assert color_at(shot, end - 30, shot.shape[0] / 4) == color_at(shot, 20, shot.shape[0] / 4) == RED
        assert color_at(shot, end + 30, row / 3.4) == color_at(shot, stage["width"] - 20, row / 3.4) == BLUE


def test_keys_move_the_divider(view, device):
    b = view(device, RED_BLUE)
    b.js("document.getElementById('handle').focus()")
    before = clip_left(b)
    for key, expected in (
        ("ArrowRight", 51),
        ("ArrowUp", 52),
        ("ArrowLeft", 51),
        ("ArrowDown", 50),
        ("PageUp", 60),
        ("PageDown", 50),
    ):
        b.key(key)
        assert value_now(b) == expected
    b.key("ArrowRight")
    assert clip_left(b) - before == pytest.approx(b.box("#stage")["width"] / 100, abs=0.1)
    assert b.attribute("#handle", "aria-valuetext") == f"51 % {LABELS[1]}, 49 % blue"
    b.key("End")
    assert value_now(b) == 100
    assert color_at(b.pixels("#stage"), b.box("#stage")["width"] - 40, 20) == RED
    b.key("Home")
    assert value_now(b) == 0
    assert color_at(b.pixels("#stage"), 40, 20) == BLUE
    b.js("document.activeElement.blur()")
    b.key("ArrowRight")
    assert value_now(b) == 1


def test_methods_are_chosen_and_swapped(view, device):
    b = view(device, fragment(at=50))
    stage = b.box("#stage")

    def sides():
        shot = b.pixels("#stage")
        return color_at(shot, stage["width"] * 0.2, 20), color_at(shot, stage["width"] * 0.8, 20)

    choose = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    assert sides() == (RED, BLUE)
    b.js(choose, "left", 2)
    b.js(choose, "right", 1)
    assert sides() == (BLUE, RED)
    assert (b.text("#left-tag"), b.text("#right-tag")) == ("blue", LABELS[1])
    b.click("#swap")
    b.js("scrollTo(0, 0)")
    assert sides() == (RED, BLUE)
    assert b.js("return [document.getElementById('left').value, document.getElementById('right').value]") == ["1", "2"]
    assert b.attribute("#left-picture", "alt") == f"{NAMES[0]}, {LABELS[1]}"


def test_flip_shows_the_other_side_while_held(view):
    b = view("desktop", RED_BLUE)
    width = b.box("#stage")["width"]

    def left():
        return color_at(b.pixels("#stage"), width * 0.2, 20), b.text("#left-tag")

    button = b.box("#flip")
    point = button["left"] + 5, button["top"] + 5
    assert left() == (RED, LABELS[1])
    b.mouse("mousePressed", *point)
    assert left() == (BLUE, "blue")
    b.mouse("mouseReleased", *point)
    assert left() == (RED, LABELS[1])
    b.key("f", "keyDown")
    assert left() == (BLUE, "blue")
    b.key("f", "keyUp")
    assert left() == (RED, LABELS[1])


def test_wheel_zooms_at_the_pointer(view):
    b = view("desktop", RED_BLUE)
    stage = b.box("#stage")
    scale, x, y = transform(b)
    fitted = scale
    assert b.attribute("#fit", "aria-pressed") == "true"
    point = 300, 200
    under = (point[0] - x) / scale, (point[1] - y) / scale
    for _ in range(3):
        b.wheel(stage["left"] + point[0], stage["top"] + point[1], -150)
        scale, x, y = transform(b)
        assert (point[0] - x) / scale == pytest.approx(under[0], abs=0.5)
        assert (point[1] - y) / scale == pytest.approx(under[1], abs=0.5)
    assert scale == pytest.approx(fitted * np.exp(0.9), rel=1e-3)
    assert b.text("#zoom") == f"{round(zoom(b) * 100)} %"
    for _ in range(6):
        b.wheel(stage["left"] + point[0], stage["top"] + point[1], -200)
    assert zoom(b) == 16
    for _ in range(10):
        b.wheel(stage["left"] + point[0], stage["top"] + point[1], 200)
    assert transform(b)[0] == pytest.approx(fitted, rel=1e-6)
    assert b.js("return scrollY") > 0  # nothing left to zoom out of: the page scrolls on


def test_pinch_zooms_between_the_fingers(view):
    b = view("phone", RED_BLUE)
    stage = b.box("#stage")
    centre = stage["left"] + 120, stage["top"] + 90
    scale, x, y = transform(b)
    under = (120 - x) / scale, (90 - y) / scale
    divider = value_now(b)
    b.touch("touchStart", [(centre[0] - 20, centre[1]), (centre[0] + 20, centre[1])])
    for spread in (25, 40, 60, 80):
        b.touch("touchMove", [(centre[0] - spread, centre[1]), (centre[0] + spread, centre[1])])
    b.touch("touchEnd", [])
    b.settled()
    after, x, y = transform(b)
    assert after == pytest.approx(4 * scale, rel=0.02)
    assert (120 - x) / after == pytest.approx(under[0], abs=2)
    assert (90 - y) / after == pytest.approx(under[1], abs=2)
    assert value_now(b) == divider


def test_zoom_buttons_and_keys(view, device):
    b = view(device, RED_BLUE)
    fitted = zoom(b)
    b.click("#zoom-in")
    assert zoom(b) == pytest.approx(fitted * 2**0.5, rel=1e-3)
    b.key("-")
    b.click("#actual")
    assert zoom(b) == pytest.approx(1)
    assert b.text("#zoom") == "100 %"
    assert b.attribute("#actual", "aria-pressed") == "true"
    assert b.style("#left-picture", "imageRendering") == "auto"
    for _ in range(12):
        b.key("+")
    assert zoom(b) == pytest.approx(16)
    assert b.style("#left-picture", "imageRendering") == b.style("#right-picture", "imageRendering") == "pixelated"
    b.key("0")
    assert zoom(b) == pytest.approx(fitted)


def test_dragging_a_zoomed_picture_moves_both_sides_but_not_the_divider(view, device):
    b = look_at(view, 1200, device=device)
    stage = b.box("#stage")
    before, divider = transform(b), value_now(b)
    start = stage["left"] + stage["width"] * 0.2, stage["top"] + stage["height"] * 0.3
    b.drag([start, (start[0] + 15, start[1] + 8), (start[0] + 40, start[1] + 25)])
    after = transform(b)
    assert (after[0], after[1] - before[1], after[2] - before[2]) == (
        before[0],
        pytest.approx(40, abs=1),
        pytest.approx(25, abs=1),
    )
    assert value_now(b) == divider
    # Near the divider it is the divider that moves.
    x = stage["left"] + clip_left(b) + 10
    b.drag([(x, start[1]), (x + 30, start[1]), (x + 60, start[1])])
    assert transform(b) == after
    assert clip_left(b) == pytest.approx(stage["width"] / 2 + 70, abs=1)
    b.key("ArrowLeft", modifiers=SHIFT)
    assert transform(b)[1] == pytest.approx(after[1] + 60, abs=1)


def test_picture_cannot_be_dragged_out_of_sight(view):
    b = look_at(view, 1200)
    stage = b.box("#stage")
    for _ in range(6):
        b.drag([(stage["left"] + 100, stage["top"] + 60), (stage["left"] + 900, stage["top"] + 560)])
    assert transform(b)[1:] == (0, 0)


def test_places_fill_the_view(view, device):
    b = view(device, RED_BLUE)
    stage = b.box("#stage")
    for index, (left, top, width, height) in enumerate(PLACES):
        b.click(f"#places button:nth-child({index + 1})")
        scale, x, y = transform(b)
        edges = (x + left * scale, y + top * scale, x + (left + width) * scale, y + (top + height) * scale)
        assert edges[0] >= -1 and edges[1] >= -1
        assert edges[2] <= stage["width"] + 1 and edges[3] <= stage["height"] + 1
        assert zoom(b) == 16 or max(width * scale / stage["width"], height * scale / stage["height"]) > 0.75
    b.key("z")
    assert transform(b) == (scale, x, y) or transform(b)[1] > x


def test_difference_view_is_the_difference_times_the_gain(view, device):
    b = view(device, RED_BLUE)
    b.click("#difference")
    b.js("scrollTo(0, 0)")
    for gain in (1, 4, 8):
        b.js(
            "const g = document.getElementById('gain'); g.value = arguments[0]; g.dispatchEvent(new Event('change'))",
            gain,
        )
        expected = [min(255, gain * abs(red - blue)) for red, blue in zip(RED, BLUE, strict=True)]
        shot = b.pixels("#stage")
        for x in (0.2, 0.8):
            assert color_at(shot, shot.shape[1] * x, 20) == pytest.approx(expected, abs=gain)
    assert b.attribute("#difference", "aria-pressed") == "true"
    b.key("d")
    assert color_at(b.pixels("#stage"), 40, 20) == RED


def test_pictures_are_stepped_through(view, device):
    b = view(device)
    b.click("#next")
    assert b.text("#name") == NAMES[1]
    assert b.text("#position") == f"2 of 5 \u00b7 {WIDTH} \u00d7 {HEIGHT}"
    b.key("p")
    b.key("p")
    assert b.text("#name") == NAMES[-1]
    b.click("#film li:nth-child(3) button")
    assert b.text("#name") == NAMES[2]
    marked = """return [...document.querySelectorAll(arguments[0])].map((item) =>
        item.matches('[aria-current]') || Boolean(item.querySelector('[aria-current]')))"""
    assert b.js(marked, "#film li") == b.js(marked, "#table tbody tr") == [False, False, True, False, False]


def test_scores_of_the_picture_mark_the_better(view):
    b = view()
    read = """return [...document.querySelectorAll('#scores section')].map((s) =>
        [s.querySelector('h3').textContent, ...[...s.querySelectorAll('dd')].map((d) => d.textContent)])"""
    assert b.js(read) == [["PSNR-Y dB \u2191", "30.00 best", "20.00"], ["LPIPS \u2193", "0.000 best", "0.250"]]
    b.key("n")
    assert b.js(read) == [["PSNR-Y dB \u2191", "9.50", "21.00 best"], ["LPIPS \u2193", "0.100 best", "0.250"]]
    b.key("p")
    b.key("p")
    assert b.js(read) == [["PSNR-Y dB \u2191", "\u2013", "24.00"], ["LPIPS \u2193", "\u2013", "0.250"]]


def test_table_sorts_both_ways_by_pointer_and_keyboard(view, device):
    b = view(device)
    heading = "#table thead tr:nth-child(2) th:nth-child(1)"
    b.click(f"{heading} button")
    assert column(b, 1) == ["9.50", "30.00", "100.25", "\u221e", "\u2013"]
    assert b.attribute(heading, "aria-sort") == "ascending"
    b.key("Enter") if b.js("return document.activeElement.matches('.sorter')") else b.click(f"{heading} button")
    assert column(b, 1) == ["\u221e", "100.25", "30.00", "9.50", "\u2013"]
    assert b.attribute(heading, "aria-sort") == "descending"
    b.js("document.querySelector('#table thead tr:first-child button').focus()")
    b.key("Enter")
    assert column(b, 0)[:3] == [NAMES[2], "plain9", "plain10"]  # numbers in names count as numbers
    assert b.js("return [...document.querySelectorAll('[aria-sort]')].map((c) => c.textContent)") == ["Picture"]
    b.key(" ") if device == "desktop" else b.key("Enter")
    assert column(b, 0)[-3:] == ["plain10", "plain9", NAMES[2]]
    assert b.text("#table tfoot").startswith("Mean")


def test_means_are_over_pictures_with_all_scores(view):
    b = view()
    cells = [
        text.removesuffix(" best")
        for text in b.js("return [...document.querySelectorAll('tfoot td')].map((c) => c.textContent)")
    ]
    assert cells == ["\u221e", "21.50", "0.150", "0.250"]
    assert "every method has a score" in b.text("#mean-note")


def test_rows_show_their_picture(view, device):
    b = view(device)
    b.click("#table tbody tr:nth-child(2) td:nth-child(2)")
    assert b.text("#name") == NAMES[1]
    b.js("document.querySelector('#table tbody tr:nth-child(3) button').focus()")
    b.key("Enter")
    assert b.text("#name") == NAMES[2]
    stage = b.box("#stage")
    assert 0 <= stage["top"] < b.device.height - stage["height"]


def test_address_follows_the_view_and_restores_it(view, browser, device):
    b = view(device, RED_BLUE)
    b.key("n")
    b.key("n")
    b.js("document.getElementById('handle').focus()")
    b.key("PageUp")
    b.click("#places button:nth-child(2)")
    b.wait(lambda: "zoom" in b.js("return location.hash"))
    b.settled()
    before = transform(b), clip_left(b), value_now(b)
    link = b.js("return location.hash")
    assert parse_qs(link[1:])["picture"] == [NAMES[2]]
    view(device, link)
    assert b.text("#name") == NAMES[2]
    assert (b.text("#left-tag"), b.text("#right-tag")) == LABELS[1:]
    assert transform(b) == (
        pytest.approx(before[0][0], rel=1e-3),
        pytest.approx(before[0][1], abs=2),
        pytest.approx(before[0][2], abs=2),
    )
    assert (clip_left(b), value_now(b)) == (pytest.approx(before[1], abs=1), before[2])
    b.js("location.hash = arguments[0]", fragment(picture=NAMES[1], left="blue", right="original", at=30, difference=4))
    b.wait(lambda: b.text("#name") == NAMES[1])
    assert (b.text("#left-tag"), value_now(b), b.attribute("#difference", "aria-pressed")) == ("blue", 30, "true")


def test_nonsense_in_the_address_is_passed_over(view):
    b = view("desktop", "#picture=none&left=%3Cb%3E&right=&at=abc&zoom=-5&x=NaN&difference=999&%E0%A4%A")
    assert (b.text("#name"), b.text("#left-tag"), b.text("#right-tag"), value_now(b)) == (
        NAMES[0],
        LABELS[1],
        LABELS[2],
        50,
    )


CONTRAST = r"""
const parse = (text) => { const v = text.match(/[\d.]+/g).map(Number); return v.length > 3 ? v : [...v, 1]; };
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const light = (color) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = color.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (element) => {
  if (!element) return [255, 255, 255, 1];
  const own = parse(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, background(element.parentElement));
};
const speaks = (element) =>
  element.matches("select") || [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const texts = [...document.body.querySelectorAll("*")].filter((element) =>
  !element.closest("script, noscript, option, svg") && element.checkVisibility() && speaks(element));
return texts.map((element) => {
  const under = background(element);
  const [a, b] = [light(over(parse(getComputedStyle(element).color), under)), light(under)].sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), element.tagName + "." + element.className + ": " + element.textContent.slice(0, 30)];
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_both_themes(view, scheme):
    b = view("desktop", RED_BLUE + "&difference=4", prefers_color_scheme=scheme)
    b.js("document.querySelector('.sorter').click()")
    b.key("?")
    ratios = b.js(CONTRAST)
    assert len(ratios) > 80
    assert [entry for entry in ratios if entry[0] < 4.5] == []


def test_theme_follows_the_system_until_it_is_toggled(view, device):
    def brightness():
        return sum(int(value) for value in re.findall(r"\d+", b.style("body", "backgroundColor"))[:3]) / 3

    b = view(device, prefers_color_scheme="dark")
    assert brightness() < 60
    assert b.attribute("#theme", "aria-pressed") == "true"
    b.click("#theme")
    assert brightness() > 200
    b.key("t")
    assert brightness() < 60
    b = view(device, prefers_color_scheme="light")
    assert brightness() > 200


def test_help_opens_and_closes_by_key(view):
    b = view()
    b.js("document.getElementById('open-help').focus()")
    b.key("?")
    assert b.js("return document.getElementById('help').open")
    b.key("n")
    assert b.text("#name") == NAMES[0]  # keys do nothing behind it
    b.key("Escape")
    assert not b.js("return document.getElementById('help').open")
    assert b.js("return document.activeElement.id") == "open-help"


def test_every_control_is_reached_by_tab_named_and_seen(view):
    b = view()
    controls = "document.querySelectorAll('button, select, [role=slider], .scroll')"
    expected = b.js(f"return [...{controls}].filter((e) => e.checkVisibility() && !e.closest('dialog')).length")
    reached = []
    for _ in range(expected):
        b.key("Tab")
        reached.append(
            b.js("""
            const e = document.activeElement, style = getComputedStyle(e);
            if (!e.dataset.seen) e.dataset.seen = Math.random();
            const label = e.getAttribute("aria-label") || e.getAttribute("aria-labelledby");
            const name = label || e.textContent.trim() || e.labels?.[0]?.textContent;
            const grip = () => getComputedStyle(e.firstElementChild).boxShadow.includes("5px");
            const ring = e.id === "handle" ? grip() : style.outlineStyle === "solid";
            return [e.dataset.seen, Boolean(name), ring];
        """)
        )
    assert len({entry[0] for entry in reached}) == expected
    assert all(named and ring for _, named, ring in reached)


def test_nothing_glides_where_less_motion_is_asked_for(view):
    script = """document.getElementById('layers').classList.add('glide');
        return getComputedStyle(document.getElementById('left-picture')).transitionDuration"""
    assert view(prefers_reduced_motion="reduce").js(script) == "0s"
    assert view(prefers_reduced_motion="no-preference").js(script) == "0.25s"


def test_controls_are_large_enough_for_a_finger(view):
    b = view("phone")
    b.command("Emulation.setEmulatedMedia", features=[{"name": "pointer", "value": "coarse"}])
    sizes = b.js(
        "return [...document.querySelectorAll('.tools button, .sides select, .stepper button')]"
        ".map((e) => e.offsetHeight)"
    )
    assert min(sizes) >= 44
