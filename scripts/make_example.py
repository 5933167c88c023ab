"""Makes what the README shows: reports/example/ by its command, and docs/report.png, a picture of that page.

    python scripts/make_example.py

Needs the development extras and Chromium. The run takes about a minute on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE, PICTURE = ROOT / "reports" / "example", ROOT / "docs" / "report.png"
COMMAND = ("compare",)
KEPT = ("report.html", "verdict.txt", "verdict.json", "tables/summary.csv", "data/plan.json", "data/environment.json")
MOST = 4_000_000  # bytes of the committed page


def main() -> None:
    """Runs, keeps what is small, takes the picture."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        subprocess.run([sys.executable, "-m", "decodedrift", *COMMAND, "--out", str(run)], cwd=ROOT, check=True)
        EXAMPLE.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            (EXAMPLE / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(run / name, EXAMPLE / name)
    size = (EXAMPLE / "report.html").stat().st_size
    if size > MOST:
        sys.exit(f"{EXAMPLE / 'report.html'} has {size:,} bytes; the limit is {MOST:,}")
    picture(EXAMPLE / "report.html", PICTURE)
    print(f"{EXAMPLE}: {size:,} bytes; {PICTURE}")


def picture(page: Path, target: Path) -> None:
    """The top of a page as a PNG, 1180 x 1120 pixels, once everything is drawn."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1180, "height": 1120})
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-drawn=yes]", state="attached")
        tab.screenshot(path=str(target))
        browser.close()


if __name__ == "__main__":
    main()
