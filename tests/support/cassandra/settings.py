# SPDX-License-Identifier: Apache-2.0
"""What a ring is like, and the configuration and command line of each of its nodes."""

from __future__ import annotations

import ipaddress
import json
import random
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .install import DEPS, CassandraFailed, java

TOKENS = 2**64
SYNC: dict[str, dict[str, object]] = {
    "periodic": {"commitlog_sync": "periodic", "commitlog_sync_period": "1000ms"},
    "batch": {"commitlog_sync": "batch"},
    "group": {"commitlog_sync": "group", "commitlog_sync_group_window": "5ms"},
}

# What the server reaches into, by module. Java 16 closed these (JEP 396).
OPENS = {
    "java.base": (
        "java.io java.lang java.lang.module java.lang.ref java.lang.reflect java.math java.net "
        "java.nio java.util java.util.concurrent java.util.concurrent.atomic "
        "jdk.internal.loader jdk.internal.math jdk.internal.misc jdk.internal.module "
        "jdk.internal.ref jdk.internal.reflect jdk.internal.util.jar sun.nio.ch"
    ),
    "java.management.rmi": "com.sun.jmx.remote.internal.rmi",
    "java.rmi": "sun.rmi.registry sun.rmi.server sun.rmi.transport.tcp",
    "java.sql": "java.sql",
    "jdk.attach": "sun.tools.attach",
    "jdk.compiler": "com.sun.tools.javac com.sun.tools.javac.file",
    "jdk.management": "com.sun.management.internal",
    "jdk.unsupported": "sun.misc",
}


@dataclass(frozen=True)
class Secured:
    """PEM files with which clients must speak TLS, and log in as `cassandra`, `cassandra`."""

    certificate: Path
    key: Path
    """Not encrypted, PKCS #8."""
    ca: Path


@dataclass(frozen=True)
class Settings:
    """What a test asks of a ring. Two of equal settings are interchangeable."""

    version: str = "5.0"
    nodes: int = 1
    """1 to 3, on consecutive addresses and the same ports."""
    address: str = "127.0.0.1"
    """Of the first node."""
    port: int = 0
    """For CQL; 0: one that is free on every address."""
    heap_mb: int = 512
    sync: str = "periodic"
    """`batch` and `group` acknowledge a write when the disk has it. `periodic`, the default of
    Cassandra, loses up to a second of writes at a power cut and a tenth at a kill: what follows
    the last mark in the log is not replayed, and marks come every 100 ms (tried)."""
    volatile: bool = False
    """Tables are made ten times quicker and the node must never be restarted."""
    tuned: bool = False
    """The optimising compiler and the collector that Cassandra comes with, too: starts slower, then
    serves faster. For measurements. With the plain collector and a heap that grows, pauses of 80 to
    280 ms were seen every few seconds at 1,000 messages a second."""
    jmx: bool = False
    """What `nodetool` needs."""
    secured: Secured | None = None
    java: tuple[str, ...] = ()
    """Further options for Java."""

    def check(self) -> None:
        """Raises `ValueError` for what cannot be."""
        if not 1 <= self.nodes <= 3:
            raise ValueError(f"{self.nodes} nodes: one to three are possible")
        if self.sync not in SYNC:
            raise ValueError(f"sync is {self.sync}: it can be {', '.join(SYNC)}")
        if self.volatile and self.nodes > 1:
            raise ValueError("a volatile ring cannot be tested for anything")
        ipaddress.ip_address(self.addresses[-1])

    @property
    def addresses(self) -> list[str]:
        """Those of the nodes."""
        first = ipaddress.ip_address(self.address)
        return [str(first + n) for n in range(self.nodes)]


@dataclass(frozen=True)
class Ports:
    """The ports of a ring, the same on each of its addresses; those of JMX count on."""

    cql: int
    storage: int
    jmx: int
    """0 without."""


def choose_ports(settings: Settings) -> Ports:
    """Ports that are free now, below those which the kernel gives to outgoing connections.

    So no client of a test can take the port of a node that is down for a while. Raises
    `CassandraFailed` if the one asked for is taken.
    """
    if settings.port and not _is_free(settings.addresses, settings.port):
        raise CassandraFailed(f"port {settings.port} is taken on {settings.addresses}")
    low = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    candidates = list(range(10_240, max(int(low), 20_000)))
    random.shuffle(candidates)
    free = (port for port in candidates if _is_free(settings.addresses, port))
    cql = settings.port or next(free)
    storage = next(free)
    if not settings.jmx:
        return Ports(cql, storage, 0)
    span = range(settings.nodes)  # JMX listens on 127.0.0.1 alone, so each node has its own
    local = (port for port in free if all(_is_free(["127.0.0.1"], port + n) for n in span))
    return Ports(
        cql, storage, next(port for port in local if not {cql, storage} & {port + n for n in span})
    )


def _is_free(addresses: list[str], port: int) -> bool:
    with ExitStack() as stack:
        for address in addresses:
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((address, port))
            except OSError:
                return False
    return True


@dataclass(frozen=True)
class Place:
    """Where one node of a ring lives."""

    number: int
    """From 1."""
    folder: Path
    settings: Settings
    ports: Ports
    lib: Path
    address: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.settings.addresses[self.number - 1])

    @property
    def jmx(self) -> int:
        """This node's port for `nodetool`; 0 without."""
        return self.ports.jmx + self.number - 1 if self.ports.jmx else 0

    def write(self) -> Path:
        """Writes what the node reads at start; the path of its configuration."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        secured = self.settings.secured
        if secured is not None:
            text = secured.key.read_text() + secured.certificate.read_text()
            pem = self.folder / "node.pem"
            pem.touch(mode=0o600)
            pem.write_text(text)
        config = self.folder / "cassandra.yaml"
        config.write_text(json.dumps(self.document(), indent=1) + "\n")  # JSON is YAML
        return config

    def document(self) -> dict[str, object]:
        """The node's `cassandra.yaml`: few threads and little memory, else the defaults.

        One token each and no bootstrap, so that all nodes start at once, in any order.
        """
        settings = self.settings
        share = TOKENS // settings.nodes
        seeds = ",".join(f"{address}:{self.ports.storage}" for address in settings.addresses)
        provider = {
            "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
            "parameters": [{"seeds": seeds}],
        }
        memtable = f"{max(settings.heap_mb // 5, 32)}MiB"
        document: dict[str, object] = {
            "cluster_name": f"antiphon-{self.ports.storage}",
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "seed_provider": [provider],
            "num_tokens": 1,
            "initial_token": str(-TOKENS // 2 + share * (self.number - 1) + share // 2),
            "auto_bootstrap": False,
            "listen_address": self.address,
            "rpc_address": self.address,
            "storage_port": self.ports.storage,
            "native_transport_port": self.ports.cql,
            "native_transport_max_threads": 32,
            "concurrent_reads": 16,
            "concurrent_writes": 16,
            "concurrent_counter_writes": 4,
            "concurrent_compactors": 1,
            "memtable_flush_writers": 1,
            "memtable_heap_space": memtable,
            "memtable_offheap_space": memtable,
            # Half of it is the largest mutation, and a value may have 4 MiB.
            "commitlog_segment_size": "16MiB",
            "commitlog_total_space": "128MiB",
            "file_cache_size": "32MiB",
            "networking_cache_size": "16MiB",
            "key_cache_size": "4MiB",
            "counter_cache_size": "0MiB",
            "auto_snapshot": False,
            # Both shorter and longer than the defaults: a dead node is noticed sooner, and a
            # busy test machine does not time out.
            "phi_convict_threshold": 6,
            "write_request_timeout": "5000ms",
            **SYNC[settings.sync],
            **self._of_version(),
            # As cassandra_latest.yaml of 5.0 has it: there is less to copy for the collector.
            **({"memtable_allocation_type": "offheap_objects"} if settings.tuned else {}),
            **self._security(),
        }
        return document

    def _of_version(self) -> dict[str, object]:
        """5.0 as a new installation of it has things; 4.1 knows none of these keys."""
        if self.settings.version.startswith("4."):
            return {}
        return {
            "storage_compatibility_mode": "NONE",
            "memtable": {"configurations": {"default": {"class_name": "TrieMemtable"}}},
            "sstable": {"selected_format": "bti"},
        }

    def _security(self) -> dict[str, object]:
        secured = self.settings.secured
        if secured is None:
            return {}
        factory = {
            "class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory",
            "parameters": {},
        }
        return {
            "authenticator": "PasswordAuthenticator",
            "authorizer": "CassandraAuthorizer",
            "client_encryption_options": {
                "enabled": True,
                "optional": False,
                "ssl_context_factory": factory,
                "keystore": str(self.folder / "node.pem"),
                "truststore": str(secured.ca),
                "require_client_auth": False,
            },
        }

    def _java(self, heap_mb: int) -> list[str]:
        """Java with the classes of the release and what they need."""
        agent = next(self.lib.glob("jamm-*.jar"))
        is_tuned = self.settings.tuned and heap_mb == self.settings.heap_mb
        least = heap_mb if is_tuned else min(heap_mb, 128)
        command = [str(java()), f"-Xms{least}m", f"-Xmx{heap_mb}m", "-Xss512k"]
        for module, packages in OPENS.items():
            for package in packages.split():
                command.append(f"--add-opens={module}/{package}=ALL-UNNAMED")
                command.append(f"--add-exports={module}/{package}=ALL-UNNAMED")
        command += ["-XX:-UsePerfData", f"-javaagent:{agent}"]
        if is_tuned:
            command += ["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+AlwaysPreTouch"]
        else:
            command.append("-XX:+UseSerialGC")
        if not self.settings.tuned:
            command.append("-XX:TieredStopAtLevel=1")
        command.append(f"-Dlogback.configurationFile={(DEPS / 'logback.xml').as_uri()}")
        command += [f"-Duser.home={self.folder}", f"-Djava.io.tmpdir={self.folder / 'tmp'}"]
        return [*command, f"-Dcassandra.storagedir={self.folder}", "-cp", f"{self.lib}/*"]

    def command(self) -> list[str]:
        """What starts the node in the foreground."""
        properties = {
            "cassandra.config": (self.folder / "cassandra.yaml").as_uri(),
            "cassandra.logdir": str(self.folder),
            "cassandra-foreground": "yes",
            "jdk.attach.allowAttachSelf": "true",
            "io.netty.tryReflectionSetAccessible": "true",
            # A ring of our own is whole when we say so: nothing to wait for.
            "cassandra.skip_wait_for_gossip_to_settle": "0",
            "cassandra.ring_delay_ms": "1000",
            "cassandra.superuser_setup_delay_ms": "0",
            "cassandra.consistent.rangemovement": "false",
            "cassandra.auth_bcrypt_gensalt_log2_rounds": "4",
        }
        if self.jmx:
            properties["cassandra.jmx.local.port"] = str(self.jmx)
        if self.settings.volatile:
            properties["cassandra.unsafesystem"] = "true"
            properties["cassandra.test.flush_local_schema_changes"] = "false"
        command = self._java(self.settings.heap_mb)
        command += [
            "-XX:+ExitOnOutOfMemoryError",
            f"-XX:MaxDirectMemorySize={max(256, self.settings.heap_mb // 2)}m",
        ]
        command += [f"-D{key}={value}" for key, value in properties.items()]
        return [*command, *self.settings.java, "org.apache.cassandra.service.CassandraDaemon"]

    def nodetool(self, words: list[str]) -> list[str]:
        """What runs `nodetool` on the node; it must have been started with JMX."""
        tool = ["-Dantiphon.log=ERROR", "org.apache.cassandra.tools.NodeTool"]
        return [*self._java(128), *tool, "-h", "127.0.0.1", "-p", str(self.jmx), *words]
