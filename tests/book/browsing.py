"""How the tests look at the book: browser flags, screens, and when a page has settled."""

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Milliseconds after which something counts as never.  Tests wait for events: in a book that works none waits so long.
PATIENCE = 180_000
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

# Resolves once fonts are there, formulas stand, pictures are decoded, and nothing waits to be scrolled into view.
SETTLED = """async () => {
  await Promise.all([document.fonts.ready, window.MathJax?.startup?.promise, window.formulasFit]);
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
}"""

FRAMES = """(count) => new Promise((done) => {
  const next = () => (count-- > 0 ? requestAnimationFrame(next) : done());
  next();
})"""


def settle(page, frames: int = 2) -> None:
    """Wait until the page has drawn that many frames: what it was asked for is then on the screen."""
    page.evaluate(FRAMES, frames)
