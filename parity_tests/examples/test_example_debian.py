"""Debian as a source of data, on a machine that has apt and on one that has not."""

from pathlib import Path

import pytest

from examples.debian import MissingData, entries, fetch, translations

PARAGRAPH = """\
Package: cat
Description-md5: 5d41
Description-fr: affiche ce qu'il lit
 Un chat.
 .
  * et plus
"""

# Lists are where the settings say; a package is a file that is moved to where it is unpacked.
APT = f"""#!/bin/sh
echo "$@" >> "{{log}}"
case "$3" in
update)
  lists=$(sed -n 's/^Dir::State "\\(.*\\)";/\\1/p' "$2")/lists
  touch "$lists/mirror_Packages"
  for language in $(sed -n 's/^Acquire::Languages {{{{ \\(.*\\) }}}};/\\1/p' "$2" | tr -d '";'); do
    printf '%s' "{PARAGRAPH}" > "$lists/mirror_i18n_Translation-$language"
  done ;;
download) echo whole > "$4.deb" ;;
esac
"""
DPKG = '#!/bin/sh\nmv "$2" "$3/unpacked"\n'
DEAF = "#!/bin/sh\necho 'W: a warning' >&2\necho 'E: the mirror does not answer' >&2\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what gives this machine an apt-get that is a script, and says what it was asked."""
    log = tmp_path / "log"

    def equip(apt: str = APT) -> Path:
        for name, text in (("apt-get", apt.format(log=log)), ("dpkg-deb", DPKG)):
            _ = (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return log

    return equip


def asked(log: Path) -> list[str]:
    return [line.split()[2] for line in log.read_text().splitlines()]


class TestLaws:
    def test_what_was_fetched_once_is_not_fetched_again(self, machine, tmp_path):
        log = machine()
        place = fetch("cat", tmp_path / "debian")
        assert (place / "unpacked").read_text() == "whole\n"
        assert fetch("cat", tmp_path / "debian") == place
        assert asked(log) == ["update", "download"]

    def test_a_second_language_keeps_the_first(self, machine, tmp_path):
        log = machine()
        for language in ("fr", "de", "fr"):
            _ = list(translations(language, tmp_path / "debian"))
        assert asked(log) == ["update", "update"]
        assert '{ "de"; "fr"; }' in (tmp_path / "debian/apt/settings").read_text()

    def test_all_that_apt_writes_is_within_the_folder(self, machine, tmp_path):
        _ = machine()
        _ = fetch("cat", tmp_path / "debian")
        settings = (tmp_path / "debian/apt/settings").read_text()
        for name in ("State", "Cache"):
            assert f'Dir::{name} "{tmp_path}/debian/apt/{name.lower()}";' in settings


class TestValues:
    def test_a_description_is_its_synopsis_and_its_long_text(self, machine, tmp_path):
        _ = machine()
        assert list(translations("fr", tmp_path)) == [("5d41", "affiche ce qu'il lit\nUn chat.\n\n * et plus")]

    def test_a_paragraph_in_another_language_is_passed_over(self):
        assert list(entries(PARAGRAPH, "de")) == []


class TestRefusals:
    def test_a_machine_without_apt_is_told_so(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(MissingData, match="no apt-get and no dpkg-deb, which must bring the files of Debian's package cat"):
            _ = fetch("cat", tmp_path / "debian")

    def test_a_mirror_that_does_not_answer_is_named_by_the_command_that_asked_it(self, machine, tmp_path):
        # apt-get update succeeds, whatever became of the lists.
        _ = machine(DEAF)
        with pytest.raises(MissingData, match="apt-get update said 'E: the mirror does not answer', and must bring"):
            _ = list(translations("fr", tmp_path / "debian"))

    def test_a_package_that_is_not_there_leaves_nothing(self, machine, tmp_path):
        _ = machine(APT.replace('echo whole > "$4.deb"', "echo 'E: no such package' >&2; exit 100"))
        with pytest.raises(MissingData, match="apt-get download cat said 'E: no such package', and must bring the files"):
            _ = fetch("cat", tmp_path / "debian")
        assert not (tmp_path / "debian/cat").exists()
