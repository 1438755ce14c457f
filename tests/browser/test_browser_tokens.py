"""The token map of the battle page in a real browser: keyboard, tap, phone, accessibility, no script needed to read."""

from __future__ import annotations

import pytest
from test_browser_pages import AXE

pytestmark = pytest.mark.browser

TEXTS = ("<|im_start|>", "user", "\n", "Compute", ":", " add", "(", "③", ")", "<|im_end|>", "\n", "=", " ", "7",
         "<img src=x onerror=alert(1)>", "<|im_end|>")  # fmt: skip


def battle_with_map(realm):
    realm.play.won_battle()
    realm.play.token_map(*TEXTS, answer=5)


def bar(page, number: int) -> float:
    return page.eval_on_selector(f"#tk1-{number}", "t => parseFloat(getComputedStyle(t, '::after').height) || 0")


def test_keyboard_reads_tokens_and_the_choice_changes_the_bars(realm, open_page):
    battle_with_map(realm)
    page = open_page("/battle")
    page.focus("[data-toks]")
    page.keyboard.press("End")
    assert page.inner_text("#tk-v1").startswith("<|im_end|>, trained, weight")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#tk-v1").startswith("<img·src=x·onerror=alert(1)>, trained")
    page.keyboard.press("Home")
    assert page.inner_text("#tk-v1") == "<|im_start|>, masked", "nothing predicts the first token"
    assert page.get_attribute("[data-toks]", "aria-activedescendant") == "tk1-0"
    assert bar(page, 11) > bar(page, 15) > 0, "the first trained token weighs most"
    assert page.eval_on_selector("#tk1-5", "t => getComputedStyle(t, '::after').display") == "none", "masked: no bar"
    page.check("input[name=tokmap][value=surprisal]")
    assert bar(page, 15) > bar(page, 11) > bar(page, 1) > 0


def test_a_tap_on_the_phone_and_no_sideways_scroll(realm, open_page, axe):
    battle_with_map(realm)
    page = open_page("/battle", 390, 844)
    page.click("#tk1-13")
    assert page.inner_text("#tk-v1").startswith("7, trained, weight")
    page.click("#battle-tokens summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#battle-tokens tbody tr").count() == len(TEXTS)
    page.evaluate(axe)
    assert page.evaluate(AXE) == []


def test_axe_finds_nothing_on_the_wide_page(realm, open_page, axe):
    battle_with_map(realm)
    page = open_page("/battle")
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
