"""What a stranger reads is true: settings, routes, commands, files and sidecar fields, as the documents name them, exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer
from pydantic import AliasChoices
from pydantic_settings import BaseSettings
from typer.core import TyperGroup

from sdapi import cli
from sdapi.app import create_app
from sdapi.catalog.checkpoint import Sidecar
from sdapi.domain.generation import SchedulerName
from sdapi.http.routers import all_routers
from sdapi.parameter_table import placed
from sdapi.services import DIALECTS
from sdapi.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS_README = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DEPLOYMENT = sorted(path.relative_to(ROOT) for path in (ROOT / "docker").iterdir() if path.is_file())

FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SOURCE_FOLDERS = {"sdapi", "tests", "docker", "alembic", "benchmarks", "docs", "models", ".ci"}
MADE_BY_USERS = ("models/checkpoints", "models/.downloading", "dreamy.toml", "portraits.toml")
"""Named as examples of what somebody puts there."""


def names_of_settings() -> dict[str, str]:
    """Each setting's variable, as documented, and its field."""
    names = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        names[str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"SDAPI_{field.upper()}"] = field
    return names


def every_spelling() -> set[str]:
    """The variables' other names, too."""
    return {name for known, field in names_of_settings().items() for name in (known, f"SDAPI_{field.upper()}")}


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in every_spelling():
        monkeypatch.delenv(name, raising=False)


def read_as_env_file(values: Mapping[str, str], folder: Path) -> Settings:
    file = folder / "documented.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    return Settings(_env_file=file)


def assert_defaults(documented: Mapping[str, str], folder: Path) -> None:
    """The documented values, read as a .env file, change nothing; and where they are empty, the default is None."""
    defaults = Settings(_env_file=None)
    read = read_as_env_file(documented, folder)
    differing = [name for name, field in names_of_settings().items() if getattr(read, field) != getattr(defaults, field)]
    assert not differing
    empty = [name for name, value in documented.items() if not value and getattr(defaults, names_of_settings()[name]) is not None]
    assert not empty, "these have a default that isn't told"


def in_env_example() -> dict[str, str]:
    return dict(re.findall(r"^# ?([A-Z][A-Z0-9_]*)=(.*)$", ENV_EXAMPLE, re.MULTILINE))


def in_readme_table() -> dict[str, str]:
    rows = re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \| (?:`([^`]*)`)? ?\|", README, re.MULTILINE)
    return dict(rows)


def test_every_setting_is_in_the_env_example_with_its_default(no_environment: None, tmp_path: Path) -> None:
    assert in_env_example().keys() == names_of_settings().keys()
    assert_defaults(in_env_example(), tmp_path)


def test_every_setting_is_in_the_readme_with_its_default(no_environment: None, tmp_path: Path) -> None:
    assert in_readme_table().keys() == names_of_settings().keys()
    assert_defaults(in_readme_table(), tmp_path)


def test_a_wrong_default_would_be_noticed(no_environment: None, tmp_path: Path) -> None:
    assert issubclass(Settings, BaseSettings)
    with pytest.raises(AssertionError):
        assert_defaults({**in_env_example(), "SDAPI_MAX_ROWS": "17"}, tmp_path)
    with pytest.raises(AssertionError):
        assert_defaults({**in_env_example(), "SDAPI_DEVICE": ""}, tmp_path)


def test_every_line_of_the_env_example_is_a_comment_or_empty() -> None:
    assert [line for line in ENV_EXAMPLE.splitlines() if line and not line.startswith("#")] == []


@pytest.mark.parametrize("path", ["README.md", "models/README.md", "Dockerfile", *map(str, DEPLOYMENT)])
def test_only_settings_that_exist_are_named(path: str) -> None:
    named = set(re.findall(r"\bSDAPI_[A-Z0-9_]+", (ROOT / path).read_text(encoding="utf-8")))
    assert named - every_spelling() == set()


def routes() -> set[str]:
    """Paths of all routes, without the slash that is tolerated at their end."""
    app = create_app(Settings(_env_file=None))
    paths = {getattr(route, "path", "") for router in all_routers(DIALECTS) for route in router.routes}
    paths |= set(app.openapi()["paths"]) | {str(app.docs_url), str(app.redoc_url), str(app.openapi_url)}
    return {re.sub(r":\w+}", "}", path).rstrip("/") for path in paths}


ALIASED = re.compile(r"^/api/v1/enterprise/(?:images|txt2img)/")
"""Second and third addresses of the enterprise calls, of which the README names the folders."""


def named_paths() -> set[str]:
    """The paths in the README's code; `/a/{b,c/{id}}` stands for `/a/b` and `/a/c/{id}`."""
    named: set[str] = set()
    for span in code(README):
        for path in re.findall(r"(?<![\w/])/[\w./{},-]*", span):
            choice = re.fullmatch(r"([^{]*)\{(.*,.*)\}", path)
            named |= {choice[1] + end for end in choice[2].split(",")} if choice else {path}
    return named


def test_every_route_is_in_the_readme(no_environment: None) -> None:
    assert len(routes()) >= 8, "routes are found at all"
    assert {path for path in routes() if not ALIASED.match(path)} - named_paths() == set()


def commands() -> set[str]:
    """`serve`, `keys create` and so on."""

    def within(group: TyperGroup, before: str) -> Iterator[str]:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from within(command, f"{before}{name} ")
            else:
                yield before + name

    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    return set(within(group, ""))


def code(text: str) -> list[str]:
    """Fenced blocks' lines and code spans."""
    return [line for block in FENCED.findall(text) for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def test_every_command_is_in_the_readme_and_no_other() -> None:
    snippets = [piece for piece in code(README) if re.match(r"sdapi [a-z]", piece)]
    named = {command for command in commands() for piece in snippets if re.match(rf"sdapi {command}\b", piece)}
    assert named == commands()
    assert [piece for piece in snippets if not any(re.match(rf"sdapi {command}\b", piece) for command in commands())] == []


@pytest.mark.parametrize("path", ["README.md", "models/README.md"])
def test_every_make_target_that_is_named_exists(path: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pieces = code((ROOT / path).read_text(encoding="utf-8"))
    named = {found[1] for piece in pieces if (found := re.match(r"make (?:[A-Z]+=\S+ )*([a-z][a-z-]*)", piece))}
    assert named <= targets
    if path == "README.md":
        assert targets <= named


def paths_in(text: str) -> set[str]:
    """Files and folders of the repository that code names; what users make themselves is left out."""
    words = {word.rstrip("/") for piece in code(text) for word in piece.split() if re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*/?", word)}
    in_folders = {word for word in words if "/" in word and word.split("/")[0] in SOURCE_FOLDERS}
    at_the_top = {word for word in words if re.fullmatch(r"[a-z-]+\.(?:toml|lock|md)|\.env\.example|Makefile|Dockerfile", word)}
    return {path for path in in_folders | at_the_top if not path.startswith(MADE_BY_USERS)}


@pytest.mark.parametrize("path", ["README.md", "models/README.md"])
def test_every_file_that_is_named_exists(path: str) -> None:
    document = ROOT / path
    text = document.read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http://", "https://", "#"))}
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [named for named in paths_in(text) if not (ROOT / named).exists()]
    assert sorted(missing) == []


def test_every_section_that_is_linked_exists() -> None:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", README), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_the_readme_stays_readable() -> None:
    assert len(README.splitlines()) < 660


def test_the_table_of_parameters_is_what_the_code_says() -> None:
    assert placed(README) == README, "`make parameters` writes it anew"


def test_a_parameter_that_is_read_otherwise_would_be_noticed() -> None:
    row = next(line for line in README.splitlines() if line.startswith("| `clip_skip`"))
    assert placed(README.replace(row, row.replace("tip", "ti"))) == README


def test_the_models_page_tells_every_sidecar_field_and_its_example_is_valid() -> None:
    rows = "\n".join(line for line in MODELS_README.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows.splitlines()))) == set(Sidecar.model_fields)
    (example,) = re.findall(r"^```toml\n(.*?)^```", MODELS_README, re.MULTILINE | re.DOTALL)
    assert set(tomllib.loads(example)) == set(Sidecar.model_fields)
    Sidecar.model_validate(tomllib.loads(example))
    assert {name.value for name in SchedulerName} == set(re.findall(r"`(\w+Scheduler)`", MODELS_README))


@pytest.mark.parametrize("path", [str(path) for path in DEPLOYMENT if path.suffix == ".yaml"])
def test_the_compose_files_are_yaml_and_mount_folders_that_exist(path: str) -> None:
    yaml = pytest.importorskip("yaml")  # comes with transformers, without types
    compose = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    for source in (volume.split(":")[0] for volume in volumes):
        assert (ROOT / "docker" / source).is_dir() if source.startswith(".") else source in compose["volumes"]


def test_what_the_image_is_made_of_exists_and_reaches_the_builder() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]]
    let_in = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert set(copied) == let_in
