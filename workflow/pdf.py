"""The built book as one PDF: Chromium prints each page, pypdf merges them, with outline and metadata."""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import re
import shutil
import sys

import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
#: White around a printed page.
MARGINS = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
SETTLED = """async () => {
  await Promise.all([document.fonts.ready, window.MathJax?.startup?.promise]);
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
}"""


def pages(toc: dict) -> list[tuple[str | None, str]]:
    """Pages in reading order, each with the part that it opens, if it opens one."""
    found: list[tuple[str | None, str]] = [(None, toc["root"])]
    for part in toc.get("parts", [{"chapters": toc.get("chapters", [])}]):
        caption = part.get("caption")
        for entry in part["chapters"]:
            found.append((caption, entry["file"]))
            found += [(None, section["file"]) for section in entry.get("sections", [])]
            caption = None
    return found


def chromium() -> str:
    """The browser's program.

    Raises:
        FileNotFoundError: where there is none.
    """
    found = os.environ.get("EOSLIB_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        raise FileNotFoundError("make pdf needs chromium (Debian, Ubuntu: apt install chromium), or EOSLIB_CHROMIUM")
    return found


def write(site: pathlib.Path, toc: dict, title: str, author: str, target: pathlib.Path) -> int:
    """Print the pages of a built book into one PDF; returns its number of pages.

    Raises:
        FileNotFoundError: where a page of the table of contents, or the browser, is absent.
    """
    files = [(caption, site / f"{name}.html") for caption, name in pages(toc)]
    for _, file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there; call make book first")
    book, part, firsts = PdfWriter(), None, {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(color_scheme="light")
        for caption, file in files:
            page.goto(file.as_uri(), wait_until="load")
            page.evaluate(SETTLED)
            page.emulate_media(media="print", color_scheme="light")
            heading = page.locator("h1").first.inner_text()
            printed = PdfReader(io.BytesIO(page.pdf(format="A4", print_background=True, margin=MARGINS)))
            first = len(book.pages)
            book.append(printed, import_outline=False)
            if caption:
                part = book.add_outline_item(title=caption, page_number=first)
            book.add_outline_item(title=re.sub(r"[#¶\s]+$", "", heading), page_number=first, parent=part)
            firsts[file.as_uri()] = first
        browser.close()
    point_inside(book, site.as_uri(), firsts)
    book.add_metadata({"/Title": title, "/Author": author})
    book.compress_identical_objects()
    partial = target.with_suffix(".partial")
    book.write(partial)
    partial.replace(target)
    return len(book.pages)


def point_inside(book: PdfWriter, site: str, firsts: dict[str, int]) -> None:
    """Links to a page of the book lead to its place in the PDF; links to its other files, which no reader has, go."""
    for page in book.pages:
        kept = ArrayObject()
        for reference in page.get("/Annots", ArrayObject()):
            link = reference.get_object()
            address = str(link.get("/A", {}).get("/URI", ""))
            if address.startswith(site):
                if (first := firsts.get(address.partition("#")[0])) is None:
                    continue
                del link["/A"]
                destination = [book.pages[first].indirect_reference, NameObject("/Fit")]
                link[NameObject("/Dest")] = ArrayObject(destination)
            kept.append(reference)
        page[NameObject("/Annots")] = kept


def main() -> int:
    """``pdf.py [--site FOLDER] [--output FILE]``."""
    parser = argparse.ArgumentParser(prog="pdf.py")
    parser.add_argument("--site", type=pathlib.Path, default=ROOT / "book" / "_build" / "html")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "book" / "_build" / "self-stabilization.pdf")
    asked = parser.parse_args()
    configured, toc = (
        yaml.safe_load((ROOT / "book" / name).read_text(encoding="utf-8")) for name in ("_config.yml", "_toc.yml")
    )
    try:
        count = write(asked.site, toc, configured["title"], configured["author"], asked.output)
    except FileNotFoundError as absent:
        print(absent, file=sys.stderr)
        return 1
    print(f"{asked.output}: {count} pages, {asked.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
