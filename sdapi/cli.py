"""The command line: serve, keys, models, db, doctor."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from pydantic import ValidationError

from sdapi.settings import Settings

if TYPE_CHECKING:
    from sdapi.api_keys import ApiKeys

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Self-hosted image generation API.")
keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(keys, name="keys")
app.add_typer(db, name="db")

T = TypeVar("T")


def main() -> None:
    """Entry point of the `sdapi` command."""
    app()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; else HOST, else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; else PORT, else 8000.")] = None,
) -> None:
    """Migrate the database and serve. The first start prints an API key."""
    import uvicorn

    from sdapi.logs import configure_logging
    from sdapi.server import Server

    settings = _settings()
    host, port = host or settings.host, settings.port if port is None else port
    configure_logging(settings.log_level, settings.log_format)
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    new_key = asyncio.run(_first_key(settings, host))
    if new_key is not None:
        typer.echo(f"Your API key (shown only now, `sdapi keys create` makes more): {new_key}")
        body = '{"prompt": "a red circle on a blue background", "width": "256", "height": "256"}'
        typer.echo(
            f"Try it:\n  curl -X POST {address}/sd/txt2img -H 'X-API-KEY: {new_key}' -H 'Content-Type: application/json' -d '{body}'"
        )
    typer.echo(f"sdapi listens on {address} (documentation: {address}/docs)")
    sys.stdout.flush()

    from sdapi.app import create_app

    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=max(1, round(settings.stop_grace_s)),
        server_header=False,
    )
    Server(config).run()


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for your own records.")] = "default",
    enterprise: Annotated[bool, typer.Option("--enterprise", help="Allow administration calls.")] = False,
) -> None:
    """Create a key and print it, once."""

    async def create(api_keys: ApiKeys) -> str:
        return (await api_keys.create(name, "enterprise" if enterprise else "user"))[1]

    typer.echo(_with_keys(create))


@keys.command("list")
def keys_list() -> None:
    """List the keys: id, beginning, name, role, state."""

    async def rows(api_keys: ApiKeys) -> list[str]:
        return [
            f"{key.id:>4}  {key.prefix}…  {key.name}  {key.role}  {'revoked' if key.revoked_at else 'valid'}  {key.created_at:%Y-%m-%d}"
            for key in await api_keys.list()
        ]

    typer.echo("\n".join(_with_keys(rows)) or "no keys yet: `sdapi keys create`")


@keys.command("revoke")
def keys_revoke(key: Annotated[str, typer.Argument(help="The key's id or its beginning, as `keys list` shows them.")]) -> None:
    """Make a key invalid."""

    async def revoke(api_keys: ApiKeys) -> bool:
        return await api_keys.revoke(key) is not None

    if not _with_keys(revoke):
        _fail(f"there is no key {key!r}")
    typer.echo("revoked")


@app.command()
def models() -> None:
    """List the checkpoints and what is wrong with the rest of the models folder."""
    from sdapi.services import open_catalog

    catalog = open_catalog(_settings())
    for checkpoint in catalog.all():
        typer.echo(f"{checkpoint.id}  {checkpoint.family}  {checkpoint.layout}  {checkpoint.size_bytes / 2**20:.1f} MB  {checkpoint.path}")
    for problem in catalog.problems():
        typer.echo(f"problem: {problem.path.name}: {problem.sentence}", err=True)


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to this version's schema. `serve` does it too."""
    from sdapi.db.migrations import upgrade

    asyncio.run(upgrade(_settings().sqlalchemy_url))
    typer.echo("the database is up to date")


@app.command()
def doctor() -> None:
    """Check the installation from settings to a drawn picture, and say what is wrong."""
    from sdapi.doctor import examine

    findings = asyncio.run(examine(_settings()))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.detail}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        _fail("\n".join(f"SDAPI_{'_'.join(str(part) for part in e['loc']).upper()}: {e['msg']}" for e in error.errors()))


def _fail(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(2)


async def _first_key(settings: Settings, host: str) -> str | None:
    """A new key when there is none at all and only this machine can connect; refuses to open an address to others without one."""
    from sdapi.db.migrations import upgrade
    from sdapi.db.session import open_database
    from sdapi.services import open_api_keys

    await upgrade(settings.sqlalchemy_url)
    async with open_database(settings.sqlalchemy_url, pool_size=1) as sessions:
        api_keys = open_api_keys(settings, sessions)
        if await api_keys.any_exist():
            return None
        if not _is_loopback(host):
            _fail(f"No API key exists, so sdapi does not listen on {host}. Run `sdapi keys create` first, or set SDAPI_API_KEY.")
        return (await api_keys.create("first", "user"))[1]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_keys(use: Callable[[ApiKeys], Awaitable[T]]) -> T:
    from sdapi.db.migrations import upgrade
    from sdapi.db.session import open_database
    from sdapi.services import open_api_keys

    settings = _settings()

    async def run() -> T:
        await upgrade(settings.sqlalchemy_url)
        async with open_database(settings.sqlalchemy_url, pool_size=1) as sessions:
            return await use(open_api_keys(settings, sessions))

    return asyncio.run(run())


if __name__ == "__main__":
    main()
