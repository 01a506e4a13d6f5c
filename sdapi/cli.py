"""The command line: serve, keys, models, db, doctor."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sdapi.console import fail, settings_or_exit
from sdapi.domain.limits import LARGEST_LIMIT, OwnLimits
from sdapi.model_commands import app as models
from sdapi.settings import Settings

if TYPE_CHECKING:
    from sdapi.api_keys import ApiKeys, LimitChanges

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Self-hosted image generation API.")
keys = typer.Typer(no_args_is_help=True, help="Create, list, limit and revoke API keys.")
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(keys, name="keys")
app.add_typer(models, name="models")
app.add_typer(db, name="db")

T = TypeVar("T")


def _limit(what: str, *, default: int | None = None) -> Any:
    """An option for one of a key's limits. `default` is the number that stands for the setting's."""
    setting = "Left out: as the setting says." if default is None else f"{default}: as the setting says."
    return typer.Option(min=0 if default is None else default, max=LARGEST_LIMIT, help=f"{what}; 0: no limit. {setting}")


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
    from sdapi.server import Server, begin_anew

    settings = settings_or_exit()
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
        create_app(settings, owns_process=True),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=max(1, round(settings.stop_grace_s)),
        server_header=False,
    )
    server = Server(config)
    server.run()
    if server.restart_requested:
        # A free port that was chosen for us stays ours: who asked for the restart knows no other.
        begin_anew(*([] if port else ["--port", str(server.port)]))


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for your own records.")] = "default",
    enterprise: Annotated[bool, typer.Option("--enterprise", help="Allow administration calls.")] = False,
    max_queued: Annotated[int | None, _limit("Requests that may wait at once")] = None,
    per_minute: Annotated[int | None, _limit("Requests for pictures in a minute")] = None,
    daily_pictures: Annotated[int | None, _limit("Pictures in a day, in UTC")] = None,
) -> None:
    """Create a key and print it, once."""

    async def create(api_keys: ApiKeys) -> str:
        limits = OwnLimits(max_queued, per_minute, daily_pictures)
        return (await api_keys.create(name, "enterprise" if enterprise else "user", limits))[1]

    typer.echo(_with_keys(create))


@keys.command("list")
def keys_list() -> None:
    """List the keys: id, beginning, name, role, state, day it was made, limits of its own."""

    async def rows(api_keys: ApiKeys) -> list[str]:
        return [
            f"{key.id:>4}  {key.prefix}…  {key.name}  {key.role}  {'revoked' if key.revoked_at else 'valid'}  {key.created_at:%Y-%m-%d}"
            f"{_shown(key.limits)}"
            for key in await api_keys.list()
        ]

    typer.echo("\n".join(_with_keys(rows)) or "no keys yet: `sdapi keys create`")


@keys.command("limit")
def keys_limit(
    key: Annotated[str, typer.Argument(help="The key's id or its beginning, as `keys list` shows them.")],
    max_queued: Annotated[int | None, _limit("Requests that may wait at once", default=-1)] = None,
    per_minute: Annotated[int | None, _limit("Requests for pictures in a minute", default=-1)] = None,
    daily_pictures: Annotated[int | None, _limit("Pictures in a day, in UTC", default=-1)] = None,
) -> None:
    """Change a key's limits; those not named stay. Running servers notice within 5 seconds."""
    changes: LimitChanges = {}
    if max_queued is not None:
        changes["max_queued_jobs"] = None if max_queued < 0 else max_queued
    if per_minute is not None:
        changes["requests_per_minute"] = None if per_minute < 0 else per_minute
    if daily_pictures is not None:
        changes["daily_pictures"] = None if daily_pictures < 0 else daily_pictures

    async def limit(api_keys: ApiKeys) -> str | None:
        changed = await api_keys.set_limits(key, **changes)
        return None if changed is None else f"{changed.id}  {changed.name}{_shown(changed.limits) or '  no limits of its own'}"

    typer.echo(_with_keys(limit) or fail(f"there is no key {key!r}"))


@keys.command("revoke")
def keys_revoke(key: Annotated[str, typer.Argument(help="The key's id or its beginning, as `keys list` shows them.")]) -> None:
    """Make a key invalid."""

    async def revoke(api_keys: ApiKeys) -> bool:
        return await api_keys.revoke(key) is not None

    if not _with_keys(revoke):
        fail(f"there is no key {key!r}")
    typer.echo("revoked")


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to this version's schema. `serve` does it too."""
    from sdapi.db.migrations import upgrade

    asyncio.run(upgrade(settings_or_exit().sqlalchemy_url))
    typer.echo("the database is up to date")


@app.command("webhook-secret")
def webhook_secret() -> None:
    """Print the text that receivers of webhooks verify the X-SDAPI-Signature with."""
    from sdapi.domain.errors import SdapiError
    from sdapi.services import open_secret
    from sdapi.services import webhook_secret as secret_of

    settings = settings_or_exit()
    try:
        typer.echo(secret_of(settings, open_secret(settings)))
    except SdapiError as unusable:
        fail(str(unusable))


@app.command()
def doctor() -> None:
    """Check the installation from settings to a drawn picture, and say what is wrong."""
    from sdapi.doctor import examine

    findings = asyncio.run(examine(settings_or_exit()))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.detail}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def _shown(limits: OwnLimits) -> str:
    named = {"max-queued": limits.max_queued_jobs, "per-minute": limits.requests_per_minute, "daily-pictures": limits.daily_pictures}
    return "".join(f"  {name} {'unlimited' if limit == 0 else limit}" for name, limit in named.items() if limit is not None)


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
            fail(f"No API key exists, so sdapi does not listen on {host}. Run `sdapi keys create` first, or set SDAPI_API_KEY.")
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

    settings = settings_or_exit()

    async def run() -> T:
        await upgrade(settings.sqlalchemy_url)
        async with open_database(settings.sqlalchemy_url, pool_size=1) as sessions:
            return await use(open_api_keys(settings, sessions))

    return asyncio.run(run())


if __name__ == "__main__":
    main()
