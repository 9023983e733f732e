"""Check that pages can be read at 360 px, a phone's width: ``python -m tests.docs.narrow FOLDER_OR_PAGE...``.

No page may scroll sideways as a whole, and no text may be cut off. Code and tables that are wider scroll by themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page

from tests.support.chromium import chromium, opened

WIDTH = 360

# What reaches beyond the right edge and is in nothing that scrolls by itself.
_TOO_WIDE = """(width) => {
    const scrolls = (element) => {
        for (let each = element; each && each !== document.body; each = each.parentElement) {
            const { overflowX, position } = getComputedStyle(each);
            if (position === "fixed") return true;  // a menu that waits outside
            if (["auto", "scroll"].includes(overflowX) && each.getBoundingClientRect().right <= width + 1) return true;
        }
        return false;
    };
    const cuts = (element) =>
        element.clientWidth > 1 &&  // a pixel has what only screen readers read
        ["hidden", "clip"].includes(getComputedStyle(element).overflowX) &&
        element.scrollWidth > element.clientWidth + 1;
    const reaches = (element) => element.getBoundingClientRect().right > width + 1;
    const found = [...document.body.querySelectorAll("*")]
        .filter((each) => each.checkVisibility() && (cuts(each) || reaches(each)) && !scrolls(each))
        .map((each) => `${each.tagName}.${each.className}: ${(each.textContent ?? "").trim().slice(0, 60)}`);
    const whole = document.documentElement.scrollWidth;
    return whole > width ? [`the page is ${whole} px wide`, ...found.slice(0, 5)] : found.slice(0, 5);
}"""


def too_wide(page: Page) -> list[str]:
    """Name what does not fit into the width, nothing where all does."""
    found: list[str] = page.evaluate(_TOO_WIDE, WIDTH)
    return found


def main() -> int:
    given = [Path(name).resolve() for name in sys.argv[1:]]
    files = [file for path in given for file in (sorted(path.rglob("*.html")) if path.is_dir() else [path])]
    failed = 0
    with chromium() as browser:
        for file in files:
            with opened(browser, file.as_uri(), width=WIDTH, height=740) as watched:
                for text in too_wide(watched.page):
                    failed += 1
                    print(f"{file.name} at {WIDTH} px: {text}", file=sys.stderr)
    print(f"{len(files)} pages at {WIDTH} px, {failed} faults")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
