"""Debian as a source of data: one package unpacked, or the descriptions of all packages in a language.

    fetch("r-cran-janeaustenr")     apt-get update, apt-get download, dpkg-deb -x            build/debian/r-cran-janeaustenr
    translations("fr")              apt-get update with Acquire::Languages { "en"; "fr"; }     (md5, synopsis and long text)

apt asks the mirrors that this machine's own list of sources names, and keeps all that it writes in a folder of ours: nothing is
installed, no root is needed, and the machine's own lists stay as they are. What was fetched once is not fetched again.

References:
    apt.conf(5), apt-get(8); "Translation-<lang>" of wiki.debian.org/DebianRepository/Format.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attention.spec.errors import AttentionError

FOLDER = Path("build/debian")
NEEDS = ("apt-get", "dpkg-deb")

# They come after the machine's own. Hooks are cleared, for some clean the machine's cache; and root would hand the download to
# a user who may not write here, while for anyone else the sandbox's user means nothing.
SETTINGS = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::Languages;
Dir::State "{state}";
Dir::Cache "{cache}";
APT::Sandbox::User "root";
Acquire::Languages {{ {languages} }};
Acquire::GzipIndexes "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
"""


class MissingData(AttentionError):
    """Data that an example is made of cannot be had; the message says what failed, and what was wanted of it."""


def fetch(package: str, folder: Path | None = None) -> Path:
    """Return the folder in which the files of one binary package lie, as they would below `/`.

    Args:
        package: its name.
        folder: of all that comes from Debian; None means `FOLDER`.

    Raises:
        MissingData: apt is missing, has no such package, or cannot reach its mirror.
    """
    folder = (folder or FOLDER).resolve()
    place, wanted = folder / package, f"the files of Debian's package {package}"
    if place.is_dir():
        return place
    with _alone(folder, wanted):
        # Another example may have fetched it while this one waited.
        if place.is_dir():
            return place
        scratch = folder / f".{package}"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "files").mkdir(parents=True)
        command = ["apt-get", "download", package]
        # Lists of an earlier day may name a version that the mirror no longer has.
        if not _lists(folder, "Packages") or _run(folder, command, scratch).returncode:
            _update(folder, [], wanted)
            _check(_run(folder, command, scratch), wanted)
        _check(_run(folder, ["dpkg-deb", "-x", str(*scratch.glob("*.deb")), "files"], scratch), wanted)
        _ = (scratch / "files").replace(place)
        shutil.rmtree(scratch)
    return place


def translations(language: str, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield the descriptions of all packages in a language; those of one text in two languages have the same md5.

    Args:
        language: its code: "en", "fr", "de", ...
        folder: of all that comes from Debian; None means `FOLDER`.

    Yields:
        The md5 of the English text, and the text: the synopsis, a newline, the long description.

    Raises:
        MissingData: apt is missing, cannot reach its mirror, or the mirror has no descriptions in this language.
    """
    folder, wanted = (folder or FOLDER).resolve(), f"Debian's package descriptions, Translation-{language}"
    with _alone(folder, wanted):
        if not _lists(folder, f"Translation-{language}"):
            _update(folder, [language], wanted)
    for path in _lists(folder, f"Translation-{language}"):
        yield from entries(path.read_text(encoding="utf-8"), language)


def entries(text: str, language: str) -> Iterator[tuple[str, str]]:
    r"""Yield md5 and text of every paragraph of a `Translation-` list.

    >>> paragraph = "Package: cat\nDescription-md5: 5d\nDescription-en: says its input\n The whole of it.\n .\n  * and more\n"
    >>> list(entries(paragraph, "en"))
    [('5d', 'says its input\nThe whole of it.\n\n * and more')]
    """
    for paragraph in text.split("\n\n"):
        head, _, body = paragraph.partition(f"\nDescription-{language}: ")
        md5 = head.partition("Description-md5: ")[2].split("\n", 1)[0]
        if md5 and body:
            synopsis, *lines = body.rstrip("\n").split("\n")
            yield md5, "\n".join([synopsis.strip(), *("" if line == " ." else line[1:].rstrip() for line in lines)])


def _lists(folder: Path, kind: str) -> list[Path]:
    """Return the lists of a kind that apt has fetched."""
    return sorted((folder / "apt/state/lists").glob(f"*_{kind}"))


def _update(folder: Path, languages: list[str], wanted: str) -> None:
    """Fetch the lists of packages, and of descriptions in some languages beside those that are there."""
    there = {path.name.rpartition("_Translation-")[2] for path in _lists(folder, "Translation-*")}
    _settle(folder, sorted(there.union(languages)))
    done = _run(folder, ["apt-get", "update"], folder)
    # apt-get calls it a success when no mirror answered.
    absent = [kind for kind in ("Packages", *(f"Translation-{x}" for x in languages)) if not _lists(folder, kind)]
    if done.returncode or absent:
        raise MissingData(f"apt-get update said {_last(done)!r}, and must bring {wanted}")


def _settle(folder: Path, languages: list[str]) -> None:
    """Write the settings under which apt keeps to the folder."""
    state, cache = folder / "apt/state", folder / "apt/cache"
    for path in (state / "lists/partial", cache / "archives/partial"):
        path.mkdir(parents=True, exist_ok=True)
    said = " ".join(f'"{language}";' for language in languages or ["none"])
    settings = SETTINGS.format(state=state, cache=cache, languages=said)
    _ = (folder / "apt/settings").write_text(settings, encoding="utf-8")


def _run(folder: Path, command: list[str], within: Path) -> subprocess.CompletedProcess[str]:
    # The settings of apt-get stand after its name; dpkg-deb has none.
    first, *rest = command
    settings = ["-c", str(folder / "apt/settings")] if first == "apt-get" else []
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    command = [first, *settings, *rest]
    # Every word of it is ours, but for the package's name, which no shell reads.
    return subprocess.run(command, cwd=within, env=environment, text=True, capture_output=True, check=False)  # noqa: S603 - above


def _check(done: subprocess.CompletedProcess[str], wanted: str) -> None:
    if done.returncode:
        command = [word for word in done.args if not word.startswith(("-", "/"))]
        raise MissingData(f"{' '.join(command)} said {_last(done)!r}, and must bring {wanted}")


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or "nothing").splitlines()[-1]


@contextmanager
def _alone(folder: Path, wanted: str) -> Iterator[None]:
    """Let no other example use apt in this folder meanwhile, after having looked whether this machine has apt at all."""
    absent = [name for name in NEEDS if shutil.which(name) is None]
    if absent:
        raise MissingData(
            f"this machine has no {' and no '.join(absent)}, which must bring {wanted}: this example needs Debian"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
