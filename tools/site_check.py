"""Opens every page of the built site in headless Chromium.

    python tools/site_check.py site

Each page must load without an error in the console and without a request to
another host; its links and anchors must lead somewhere; 400 pixels must be
wide enough for it. The search must find what `SEARCHES` says. Exit status 1
with a line for each fault; 0 with a line that says so where there is no
Chromium.
"""

import functools
import http.server
import pathlib
import shutil
import sys
import threading
import urllib.parse

# What is typed, and a page that must be among the results.
SEARCHES = {
    "SGDAGC": "api/optimizers.html#keras_nfnet.SGDAGC",
    "spectrogram": "guides/spectrograms.html",
    "create_model": "migration/timm.html",
    "loss is NaN": "faq.html#nan-or-stuck",
}
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(directory):
    handler = functools.partial(_Quiet, directory=directory)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def faults_of_page(page, base, name, ids):
    """Opens a page at two widths; its faults in words.

    Args:
        page: Of playwright.
        base: Address of the site.
        name: The page's path in it.
        ids: `{path: names of anchors}`, filled here.

    Returns:
        The faults, and the links as `(path, anchor)`.
    """
    seen = []
    page.on("console", lambda m: m.type == "error" and seen.append(m.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on(
        "request",
        lambda r: (
            r.url.startswith((base, "data:", "blob:"))
            or seen.append(f"asks for {r.url}")
        ),
    )
    page.on(
        "response",
        lambda r: r.ok or seen.append(f"{r.status} of {r.url}"),
    )
    page.goto(base + name, wait_until="load")
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 800})
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            seen.append(f"is {wide} pixels wide on a screen of {width}")
    ids[name] = set(
        page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    )
    hrefs = page.evaluate(
        "[...document.querySelectorAll('a[href]')].map(e => e.href)"
    )
    links = []
    for href in hrefs:
        if href.startswith(base):
            path, _, anchor = href.removeprefix(base).partition("#")
            links.append((path or "index.html", urllib.parse.unquote(anchor)))
    return seen, links


def found_by_search(page, base, text):
    """Addresses that the search offers for a text."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(base + "index.html", wait_until="load")
    page.click("input.md-search__input")
    page.locator("input.md-search__input").press_sequentially(text)
    # It says "No matching documents", or how many there are.
    page.wait_for_function(
        "/match/.test(document.querySelector('.md-search-result').innerText)"
    )
    return page.evaluate(
        "[...document.querySelectorAll('.md-search-result__link')]"
        ".map(e => e.pathname + e.hash)"
    )


def check(directory, chromium):
    from playwright.sync_api import sync_playwright

    root = pathlib.Path(directory)
    names = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.html"))
        if path.name != "404.html"
    ]
    base = serve(directory)
    faults, ids, links = [], {}, {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=list(_FLAGS)
        )
        for name in names:
            page = browser.new_page()
            seen, links[name] = faults_of_page(page, base, name, ids)
            faults += [f"{name}: {fault}" for fault in seen]
            page.close()
        for text, expected in SEARCHES.items():
            page = browser.new_page()
            found = found_by_search(page, base, text)
            page.close()
            if not any(expected in address for address in found):
                faults.append(f"the search for {text!r} found {found}")
        browser.close()
    for name, targets in links.items():
        for path, anchor in targets:
            if path not in ids:
                if not (root / path).is_file():
                    faults.append(f"{name}: no page {path}")
            elif anchor and anchor not in ids[path]:
                faults.append(f"{name}: no anchor {path}#{anchor}")
    return names, faults


def main():
    (directory,) = sys.argv[1:]
    chromium = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if chromium is None:
        print("skipped: there is none of", ", ".join(_CHROMIUM))
        return 0
    names, faults = check(directory, chromium)
    print("\n".join(sorted(set(faults))) or f"{len(names)} pages are well")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
