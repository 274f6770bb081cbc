"""The built book at a port of this machine, without a line per request: ``serve.py FOLDER PORT``."""

from __future__ import annotations

import functools
import http.server
import sys


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def main(folder: str, port: str) -> int:
    """Serve until Ctrl-C; 1 with a sentence where the port cannot be had."""
    try:
        with http.server.ThreadingHTTPServer(
            ("127.0.0.1", int(port)), functools.partial(Quiet, directory=folder)
        ) as server:
            print(f"The book is at http://localhost:{port} (Ctrl-C ends this).", flush=True)
            server.serve_forever()
    except (OSError, OverflowError, ValueError) as error:
        print(f"Port {port} cannot be had ({error}): make serve PORT=8001 takes another.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
