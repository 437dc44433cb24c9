"""The picture of an HTML report in docs/check_your_port.md: the page of a port with a wrong GELU, as a browser shows it.

python -m tools.report_picture        writes build/report/report.png; needs Chromium
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile

from tools.results.recorded import ROOT

FOLDER = ROOT / "build" / "report"
PAIR = ("examples/port/model_torch.py:Block", "examples/port/model_jax.py:Block")
OPTIONS = ("--inputs", "2,7,24", "--values", "first")
SIZE = "1280,830"


def main() -> int:
    """Write the page and its picture, and return the exit code: 2 without a browser, or where the pair cannot be compared."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("report_picture: Chromium must be installed", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    page, picture = FOLDER / "report.html", FOLDER / "report.png"
    argv = [sys.executable, "-m", "attention.cli", "compare", *PAIR, *OPTIONS, "--html", str(page)]
    if subprocess.run(argv, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode != 1:
        return 2
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        shown = [f"--window-size={SIZE}", f"--screenshot={picture}", page.as_uri()]
        code = subprocess.run([browser, *options, *shown], check=False, capture_output=True, timeout=120).returncode
    return 2 if code else 0


if __name__ == "__main__":
    sys.exit(main())
