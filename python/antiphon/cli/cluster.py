# SPDX-License-Identifier: Apache-2.0
"""`antiphon cluster`: how the cluster is, and taking a node out of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import msgspec

from antiphon.cli import showing
from antiphon.cli.looking import ASK_S, Cluster, Look, cluster
from antiphon.cli.shared import Failure, config_option, json_option, load, show
from antiphon.cluster.api import Calls, ControlError, Outlook
from antiphon.cluster.judge import findings
from antiphon.cluster.status import ClusterStatus, Member
from antiphon.config.schema import Config

T = TypeVar("T")

RELOAD_S = 15.0
_LOOK_S = 0.5
_SAY_S = 2.0


@click.group("cluster")
def cluster_group() -> None:
    """Show the cluster, drain its nodes.

    Run it on the machine of a node, with that node's configuration, whose certificate it shows. The
    node beside it is asked first, then the members that etcd lists.
    """


@cluster_group.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> int:
    """Show on one screen how the cluster is and what is wrong.

    Who is in, who plans, shards by node and how many are on their way, leases, links, etcd; then
    each thing that is wrong, with what to do. Exit code 1 if no node answers.
    """
    config = _config(config_file)
    if not config.is_clustered:
        return _alone(config, as_json)
    look = _asked(config, lambda found: found.look())
    found = findings(look.view)
    show(as_json, _document(look), showing.status_text(config.cluster.name, look, found))
    return 0 if look.asked is not None else 1


@cluster_group.command()
@config_option
@json_option
def nodes(config_file: str | None, as_json: bool) -> int:
    """List the members with their addresses, zones and versions."""
    config = _config(config_file)
    if not config.is_clustered:
        return _alone(config, as_json)
    look = _asked(config, lambda found: found.look())
    _need_answer(look)
    listed = [
        {**msgspec.to_builtins(one), "is_answering": one.id in look.view.nodes}
        for one in look.view.members
    ]
    show(as_json, listed, showing.nodes_text(look))
    return 0


@cluster_group.command()
@config_option
@json_option
def shards(config_file: str | None, as_json: bool) -> int:
    """Show how many shards each node owns and serves, and how many are on their way."""
    config = _config(config_file)
    if not config.is_clustered:
        return _alone(config, as_json)
    look = _asked(config, lambda found: found.look())
    _need_answer(look)
    latest = look.view.latest
    by_node = {
        name: {
            "served": one.shards.served,
            "coming": one.shards.coming,
            "going": one.shards.going,
        }
        for name, one in sorted(look.view.nodes.items())
    }
    document = {
        "all": latest.shards.all if latest is not None else 0,
        "epoch": latest.epoch if latest is not None else 0,
        "owned": latest.shards.by_node if latest is not None else {},
        "nodes": by_node,
    }
    show(as_json, document, showing.shards_text(look))
    return 0


@cluster_group.command()
@click.argument("node")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(0, 86_400),
    default=120,
    show_default=True,
    help="Seconds to wait until it holds nothing; 0: only begin.",
)
@click.option("--cancel", "is_cancel", is_flag=True, help="Take it back: it gets its share again.")
@config_option
@json_option
def drain(
    node: str, timeout_s: int, is_cancel: bool, config_file: str | None, as_json: bool
) -> int:
    """Have NODE give away its shards and sessions, and wait until it holds nothing.

    It takes no clients from then on, and stays up until it is stopped; --cancel or a restart brings
    it back. SIGTERM does the same before the process ends. Exit code 1 if it still holds something
    in the end.
    """
    config = _clustered(config_file)
    if is_cancel:
        return _stay(node, config, as_json)

    async def work(found: Cluster) -> dict[str, object]:
        member = _member(node, await found.members())
        calls = found.to(member.id, member.control)
        begun = time.monotonic()
        was_draining = await calls.drain(ASK_S)
        left = None
        if timeout_s:
            left = await _drained(calls, member, begun + timeout_s, is_quiet=as_json)
        return {
            "node": member.id,
            "was_draining": was_draining,
            "is_drained": left == 0 if timeout_s else None,
            "shards_left": left,
            "seconds": round(time.monotonic() - begun, 1),
        }

    done = _asked(config, work)
    if done["is_drained"] is None:
        text = f"{node} gives away what it holds"
    elif done["is_drained"]:
        text = f"{node} holds nothing after {done['seconds']} s: stop it or restart it"
    else:
        text = f"{node} still holds {done['shards_left']} shards; see antiphon cluster status"
    show(as_json, done, text)
    return 1 if done["is_drained"] is False else 0


@cluster_group.command()
@config_option
@json_option
def rebalance(config_file: str | None, as_json: bool) -> int:
    """Have the planner look at the shares of the nodes anew, and tell what there is to move.

    It does so by itself whenever a node comes, goes or drains, and moves what is not where it shall
    be; this is for when you doubt it. Exit code 1 if nobody plans.
    """
    config = _clustered(config_file)

    async def work(found: Cluster) -> tuple[str, Outlook]:
        look = await found.look()
        _need_answer(look)
        latest = look.view.latest
        planner = latest.leader_name if latest is not None else None
        member = look.view.member(planner) if planner is not None else None
        if member is None:
            raise Failure("nobody plans at the moment; see antiphon cluster status")
        return member.id, await found.to(member.id, member.control).rebalance(ASK_S)

    planner, outlook = _asked(config, work)
    document = {"planner": planner, **msgspec.structs.asdict(outlook)}
    show(as_json, document, f"{planner}: {_outlook_text(outlook)}")
    return 0


def _outlook_text(outlook: Outlook) -> str:
    """What the planner found to do, for people."""
    shares = f"{outlook.least:,} to {outlook.most:,} shards a node"
    if outlook.most == 0:
        return "its version looks at the shares anew and does not tell what it finds"
    if outlook.moving == 0:
        return f"nothing to move: shards are balanced ({shares})"
    if outlook.is_waiting:
        return (
            f"{outlook.moving:,} shards are to move once etcd has been there for a while ({shares})"
        )
    return f"{outlook.moving:,} shards move ({shares})"


def _stay(node: str, config: Config, as_json: bool) -> int:
    """Has a node keep what it gives away."""

    async def work(found: Cluster) -> dict[str, object]:
        member = _member(node, await found.members())
        was_draining = await found.to(member.id, member.control).stay(ASK_S)
        return {"node": member.id, "was_draining": was_draining}

    done = _asked(config, work)
    text = f"{node} did not drain"
    if done["was_draining"]:
        text = f"{node} takes clients and gets its share of shards again"
    show(as_json, done, text)
    return 0


@cluster_group.command()
@click.argument("node", nargs=-1)
@config_option
@json_option
def reload(node: tuple[str, ...], config_file: str | None, as_json: bool) -> int:
    """Have each NODE, or every node, read its configuration and certificates again.

    As SIGHUP does. Exit code 1 if one of them refuses.
    """
    config = _clustered(config_file)
    done = _of_each(config, node, lambda calls: calls.reload(RELOAD_S))
    lines = []
    for name, found in done.items():
        if isinstance(found, str):
            lines.append(found)
        elif found:
            lines += [f"{name} refuses: {problem}" for problem in found]
        else:
            lines.append(f"{name} has reloaded")
    document = {
        name: {"is_taken": found == (), "problems": [found] if isinstance(found, str) else found}
        for name, found in done.items()
    }
    show(as_json, document, "\n".join(lines))
    return 1 if any(done.values()) else 0


@cluster_group.command("log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.argument("node", nargs=-1)
@config_option
@json_option
def log_level(level: str, node: tuple[str, ...], config_file: str | None, as_json: bool) -> int:
    """Have each NODE, or every node, log from LEVEL on, until its next reload."""
    config = _clustered(config_file)

    async def one(calls: Calls) -> dict[str, str]:
        return {"was": await calls.set_log_level(level, RELOAD_S), "is": level}

    done = _of_each(config, node, one)
    lines = [
        found if isinstance(found, str) else f"{name} logs from {level} on, before {found['was']}"
        for name, found in done.items()
    ]
    show(as_json, done, "\n".join(lines))
    return 1 if any(isinstance(found, str) for found in done.values()) else 0


def _of_each(
    config: Config, names: tuple[str, ...], ask: Callable[[Calls], Awaitable[T]]
) -> dict[str, T | str]:
    """What each of these nodes answers, or all where none is named; a text: why one does not."""

    async def work(found: Cluster) -> dict[str, T | str]:
        members = await found.members()
        chosen = [_member(name, members) for name in names] or members
        calls = [found.to(one.id, one.control) for one in chosen]
        answers = await asyncio.gather(*map(ask, calls), return_exceptions=True)
        result: dict[str, T | str] = {}
        for member, answer in zip(chosen, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, ControlError):
                raise answer
            result[member.id] = str(answer) if isinstance(answer, ControlError) else answer
        return result

    return _asked(config, work)


async def _drained(calls: Calls, member: Member, until: float, *, is_quiet: bool) -> int | None:
    """Shards that the node still holds in the end; None if it is not known."""
    said = time.monotonic()
    left: int | None = None
    while True:
        try:
            status, _ = await calls.status(ASK_S)
        except ControlError as error:
            if not error.is_unreached:
                raise
            # It gave everything away and was stopped, or it died; either way it holds nothing.
            return 0
        left = _left(status)
        now = time.monotonic()
        if left == 0 or now >= until:
            return left
        if not is_quiet and now - said >= _SAY_S:
            said = now
            click.echo(f"{member.id}: {left:,} shards, {status.sessions:,} sessions left", err=True)
        await asyncio.sleep(_LOOK_S)


def _left(status: ClusterStatus) -> int:
    held = status.shards
    return held.served + held.coming + held.going if status.is_in else 0


def _document(look: Look) -> dict[str, object]:
    """The document of the node that was asked, and what the others and etcd say beside it."""
    found = findings(look.view)
    own = look.documents.get(look.asked) if look.asked is not None else None
    return {
        **(own if isinstance(own, dict) else {}),
        "backend": "etcd",
        "asked": look.asked,
        "ok": look.asked is not None and not any(one.level != "note" for one in found),
        "problems": msgspec.to_builtins(found),
        "nodes": look.documents,
        "silent": look.view.silent,
        "etcd_members": msgspec.to_builtins(look.view.etcd),
    }


def _member(name: str, members: list[Member]) -> Member:
    for one in members:
        if one.id == name:
            return one
    listed = ", ".join(sorted(one.id for one in members)) or "none"
    raise Failure(f"{name} is no member of the cluster; there are {listed}")


def _need_answer(look: Look) -> None:
    if look.asked is None:
        reasons = [*look.view.silent.values(), look.absent or "", look.view.etcd_fault or ""]
        raise Failure(f"no node answers: {'; '.join(one for one in reasons if one)}")


def _config(config_file: str | None) -> Config:
    return load(config_file).config


def _clustered(config_file: str | None) -> Config:
    config = _config(config_file)
    if not config.is_clustered:
        raise Failure(_alone_text(config))
    return config


def _alone(config: Config, as_json: bool) -> int:
    show(as_json, {"backend": "local", "node": config.node.name}, _alone_text(config))
    return 0


def _alone_text(config: Config) -> str:
    return f'node {config.node.name} is alone: cluster.backend is "local"'


def _asked(config: Config, work: Callable[[Cluster], Awaitable[T]]) -> T:
    async def inner() -> T:
        async with cluster(config) as found:
            return await work(found)

    try:
        return asyncio.run(inner())
    except ControlError as error:
        raise Failure(str(error)) from error
