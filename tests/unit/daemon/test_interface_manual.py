"""org.kheaders.Provide(5) describes the interface of the XML file, every option and every error."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from kheadersd import errors
from kheadersd.daemon import options
from tests.support.running import REPOSITORY

PAGE = REPOSITORY / "man/org.kheaders.Provide.5"
INTERFACE = REPOSITORY / "kheadersd/data/org.kheaders.Provide.xml"

# What is explained stands alone on a line that is indented by 7, an option by 14.
_TAG = r"^ {7}(\S.*)$"
_OPTION = r"^ {14}(\w+) \((\w+)(?:, \w+)?\)$"


@pytest.fixture(scope="module")
def page() -> str:
    """The page as it is read, with a line for each paragraph."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=2000n", "-rIN=7n", "-rBP=7n", str(PAGE)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def section(page: str, title: str) -> str:
    found = re.search(rf"^{title}\n(.*?)(?=^\S|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def interface() -> ElementTree.Element:
    found = ElementTree.parse(INTERFACE).getroot().find("interface")
    assert found is not None
    return found


def declared(kind: str) -> Iterator[str]:
    """Each method or signal as the page writes it."""
    for member in interface().findall(kind):
        arguments = [
            " ".join(filter(None, (argument.get("direction"), argument.get("type"), argument.get("name"))))
            for argument in member.findall("arg")
        ]
        yield f"{member.get('name')}({', '.join(arguments)})"


@pytest.mark.parametrize(("kind", "title"), [("method", "METHODS"), ("signal", "SIGNALS")])
def test_every_member_with_its_arguments(page: str, kind: str, title: str) -> None:
    explained = re.findall(r"^ {7}(\w+\(.*\))$", section(page, title), re.MULTILINE)
    assert sorted(explained) == sorted(declared(kind)) != []


def test_every_property_with_its_type(page: str) -> None:
    explained: dict[str | None, str | None] = {}
    for tag in re.findall(_TAG, section(page, "PROPERTIES"), re.MULTILINE):
        for names, kind in re.findall(r"([\w, ]+) \((\(?\w+\)?)\)", tag):
            explained |= dict.fromkeys(filter(None, names.split(", ")), kind)
    assert explained == {prop.get("name"): prop.get("type") for prop in interface().findall("property")}


def test_every_option_with_its_type(page: str) -> None:
    explained = set(re.findall(_OPTION, section(page, "METHODS"), re.MULTILINE))
    known = [option for option in vars(options).values() if isinstance(option, options.Option)]
    assert explained == {(option.name, option.signature) for option in known}


def test_every_error(page: str) -> None:
    said = section(page, "ERRORS")
    known = {
        error.bus_name
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.KheadersError)
    }
    ours = {name for name in known if name.startswith(errors.PROVIDE_ERRORS)}
    explained = re.findall(r"^ {7}(\w+)(?:  .*)?$", said, re.MULTILINE)  # a short name has its text beside it
    assert {errors.PROVIDE_ERRORS + name for name in explained} == ours
    others = set(re.findall(r"\b[A-Z]\w+\b", said.partition("freedesktop")[2])) - {"DBus", "Error"}
    assert others == {name.rpartition(".")[2] for name in known - ours}
