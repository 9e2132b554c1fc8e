# SPDX-License-Identifier: Apache-2.0
"""The trials: a crowd, a server that dies, and the verdict on what is left."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from support.endpoint import Account
from support.xml import Element

from . import cassandra_reader, disk, wire_reader
from .crowd import Crowd
from .ledger import Findings, Ledger, Row, judge, judge_inboxes
from .node import Mortal
from .sqlite_reader import FileDamaged, SqliteReader

READERS = 8
"""Archives read over the wire at a time."""


@dataclass
class Figures:
    """What a trial did and found."""

    kills: int = 0
    drops: int = 0
    """Connections cut by their clients."""
    resumed: int = 0
    """Sessions that went on after that."""
    cuts: int = 0
    torn: int = 0
    """Unsynced writes of which a cut kept any part, or none."""
    sent: int = 0
    acknowledged: int = 0
    repeated: int = 0
    received: int = 0
    rows: int = 0
    busy_s: float = 0.0
    """While the crowd wrote, logins included."""
    findings: Findings = field(default_factory=Findings)

    @property
    def rate(self) -> float:
        """Acknowledged messages in a second."""
        return self.acknowledged / self.busy_s if self.busy_s else 0.0

    def note(self, crowd: Crowd) -> None:
        """Takes over what the crowd did so far."""
        ledger = crowd.ledger
        self.sent, self.acknowledged = len(ledger.sent), len(ledger.acknowledged)
        self.repeated, self.received = ledger.repeated, crowd.received
        self.drops, self.resumed = crowd.drops, crowd.resumed

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.drops} lost connections ({self.resumed} resumed), {self.cuts} power cuts ({self.torn} unsynced writes), "
            f"{self.sent} messages sent, {self.acknowledged} acknowledged "
            f"({self.rate:.0f}/s), {self.repeated} sent again, {self.received} delivered, "
            f"{self.rows} archived: "
            + ", ".join(f"{n} {name}" for name, n in self.findings.counts.items())
        )


def judge_image(folder: Path, ledger: Ledger) -> Findings:
    """The verdict on a copy of the data, read from the file; the copy is changed by that."""
    reader = SqliteReader(folder)
    try:
        reader.check()
        return judge(ledger, reader.archives())
    except FileDamaged as error:
        return Findings(damaged=[str(error)])
    finally:
        reader.close()


def judge_file(folder: Path, ledger: Ledger) -> tuple[Findings, dict[int, list[Row]]]:
    """The same with inboxes, of a run that has come to rest."""
    reader = SqliteReader(folder)
    try:
        reader.check()
        archives = reader.archives()
        findings = judge(ledger, archives)
        findings.add(judge_inboxes(ledger, archives, reader.inboxes()))
        return findings, archives
    finally:
        reader.close()


async def judge_wire(node: Mortal, accounts: list[Account], ledger: Ledger) -> Findings:
    """The verdict on what a client is given, archives and inboxes."""
    doors = asyncio.Semaphore(READERS)

    async def read(number: int) -> tuple[int, list[Row], dict[int, int]]:
        async with doors:
            account = accounts[number]
            rows = await wire_reader.archive(node.door, account)
            return number, rows, await wire_reader.inbox(node.door, account)

    found = await asyncio.gather(*(read(number) for number in range(len(accounts))))
    archives = {number: rows for number, rows, _ in found}
    findings = judge(ledger, archives)
    findings.add(judge_inboxes(ledger, archives, {number: unread for number, _, unread in found}))
    return findings


async def finish(node: Mortal, crowd: Crowd, figures: Figures) -> None:
    """Lets a crowd come to rest and judges everything, over the wire and in the file."""
    begun = time.monotonic()
    await crowd.settle()
    figures.busy_s += time.monotonic() - begun
    await crowd.read_half()
    figures.note(crowd)
    assert figures.acknowledged + len(crowd.ledger.refused) >= figures.sent
    accounts = [member.account for member in crowd.members]
    await crowd.close()
    figures.findings.add(await judge_wire(node, accounts, crowd.ledger))
    if node.contact_points:
        owners = [account.jid for account in accounts]
        archives = cassandra_reader.archives(node.contact_points, node.keyspace, owners)
        figures.findings.add(judge(crowd.ledger, archives))
    else:
        node.stop()
        findings, archives = judge_file(node.data, crowd.ledger)
        figures.findings.add(findings)
    figures.rows = sum(map(len, archives.values()))


async def kills(
    node: Mortal,
    crowd: Crowd,
    rounds: int,
    dice: random.Random,
    *,
    longest_s: float = 2.5,
    cut_s: float | None = None,
) -> Figures:
    """Kills a running node at random moments, reconnects everybody, and counts.

    After each kill what is in the file is judged before anybody can send anything again.
    """
    figures = Figures()
    for _ in range(rounds):
        begun = time.monotonic()
        crowd.start(node.door, cut_s=cut_s)
        await asyncio.sleep(dice.uniform(0.2, longest_s))
        node.kill()
        figures.kills += 1
        figures.busy_s += time.monotonic() - begun
        await crowd.crash()
        if not node.contact_points:
            image = node.image(node.folder / "image")
            figures.findings.add(judge_image(image, crowd.ledger))
            shutil.rmtree(image)
        node.again()
    crowd.start(node.door)
    await finish(node, crowd, figures)
    return figures


async def drops(node: Mortal, crowd: Crowd, seconds: float, cut_s: float) -> Figures:
    """Lets connections break all the time; the node lives on, with what it remembers."""
    figures = Figures()
    begun = time.monotonic()
    crowd.start(node.door, cut_s=cut_s)
    await asyncio.sleep(seconds)
    figures.busy_s = time.monotonic() - begun
    await finish(node, crowd, figures)
    return figures


async def power(
    node: Mortal, crowd: Crowd, seconds: float, cuts: int, dice: random.Random
) -> tuple[Figures, Figures]:
    """Runs a node on a disk of which every write is known, and cuts the power.

    The last cut is where the node was killed: there it goes on, clients send again, and all is
    judged as after a kill. The other cuts are at random moments of the same run. The second
    figures are of a disk that lies about its syncs: they must not be flawless.
    """
    figures, control = Figures(), Figures()
    node.stop()
    before = node.image(node.folder / "before")
    protocol_file = node.folder / "protocol"
    library = disk.build(node.folder)
    node.extra_env = disk.environment(library, node.data, protocol_file)
    node.again()
    begun = time.monotonic()
    crowd.start(node.door)
    await asyncio.sleep(seconds)
    node.kill()
    figures.kills += 1
    figures.busy_s = time.monotonic() - begun
    await crowd.crash()
    figures.note(crowd)
    protocol = disk.Protocol(protocol_file, node.data)
    end = time.monotonic()
    moments = protocol.moments(cuts - 1, begun, dice)
    for moment in moments:
        _cut(protocol, moment, (before, crowd.ledger), figures, dice)
    for moment in moments[: max(3, cuts // 10)]:
        _cut(protocol, moment, (before, crowd.ledger), control, dice, lies_s=0.3)
    shutil.rmtree(node.data)
    figures.torn += protocol.cut(end, before, node.data, dice)
    figures.cuts += 1
    protocol.close()
    node.extra_env = {}
    figures.findings.add(_copy_judged(node, crowd.ledger))
    node.again()
    begun = time.monotonic()
    crowd.start(node.door)
    await asyncio.sleep(1.0)
    figures.busy_s += time.monotonic() - begun
    await finish(node, crowd, figures)
    return figures, control


def _copy_judged(node: Mortal, ledger: Ledger) -> Findings:
    image = node.image(node.folder / "image")
    try:
        return judge_image(image, ledger)
    finally:
        shutil.rmtree(image)


def _cut(
    protocol: disk.Protocol,
    moment: float,
    truth: tuple[Path, Ledger],
    figures: Figures,
    dice: random.Random,
    *,
    lies_s: float = 0,
) -> None:
    before, ledger = truth
    image = before.with_name("cut")
    try:
        figures.torn += protocol.cut(moment, before, image, dice, lies_s=lies_s)
        figures.cuts += 1
        figures.findings.add(judge_image(image, ledger.until(moment)))
    finally:
        shutil.rmtree(image)


async def catch_up(
    node: Mortal, accounts: list[Account], total: int, dice: random.Random
) -> tuple[int, int, int]:
    """A client that disconnects at random and asks for what came after the last it has.

    The last account reads what the others write to it, while they do and afterwards. Returns how
    many messages it saw, how many were there, and how often it disconnected; raises
    `AssertionError` where it sees one twice, or out of order within a pair.
    """
    me = len(accounts) - 1
    writers = Crowd(accounts[:-1], window=10, reach=1)
    for member in writers.members:
        member.peers = [me]
    writers.start(node.door)
    reader = _Reader(node, accounts[me], dice)
    is_quiet = False
    while not reader.is_done or not is_quiet:
        if len(writers.ledger.sent) >= total and not is_quiet:
            await writers.settle()
            await writers.close()
            is_quiet = True
        await reader.visit()
    findings = judge(writers.ledger, {me: reader.seen})
    # Nobody reads the senders' archives here.
    findings.lost = [text for text in findings.lost if text.endswith(f" of {me}")]
    assert not findings, str(findings)
    return len(reader.seen), len(writers.ledger.sent), reader.visits


@dataclass
class _Reader:
    """One device that comes and goes, and keeps what it has been given."""

    node: Mortal
    account: Account
    dice: random.Random
    seen: list[Row] = field(default_factory=list)
    last: str | None = None
    visits: int = 0
    is_done: bool = False
    """The last visit came to the archive's end."""

    async def visit(self) -> None:
        """Comes, asks for a page or two of any size, and cuts the line, perhaps within a page."""
        client = wire_reader.Quiet(self.node.door, self.account)
        self.visits += 1
        try:
            await client.login("reader")
            for _ in range(self.dice.randint(1, 2)):
                size = self.dice.choice((1, 7, 50, 150))
                if self.dice.random() < 0.3:
                    self._take(await wire_reader.part_of_page(client, self.last, size))
                    return
                results, self.is_done = await wire_reader.page_after(client, self.last, size)
                self._take(results)
        finally:
            client.abort()

    def _take(self, results: list[Element]) -> None:
        for result in results:
            self.last = result.get("id")
            row = wire_reader.row_of(self.account.jid, result)
            assert row is not None, "a message without body"
            self.seen.append(row)
