# SPDX-License-Identifier: Apache-2.0
"""Debian's Prosody and ejabberd under load, tuned and as they come."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from typing import ClassVar

from bench.accounts import DOMAIN, ITERATIONS, Accounts, keys
from bench.server import Server, ServerError, as_user, output_of

# One for all accounts: the generator then derives the keys once.
SALT = "a-salt-for-everybody"
IMPORT_S = 120.0


class Prosody(Server):
    """Debian's Prosody; the garbage collector's threshold makes it three times cheaper."""

    name = "prosody"
    label = "Prosody, tuned"
    tuning = 'gc = { mode = "incremental"; threshold = 300 }'
    modules = (
        "roster saslauth tls disco carbons pep private blocklist vcard4 vcard_legacy version "
        "uptime time ping register smacks csi_simple"
    )
    extra: ClassVar[str] = ""
    """Further lines of the configuration."""

    @classmethod
    def version(cls) -> str:
        if shutil.which("prosody") is None or shutil.which("prosodyctl") is None:
            raise ServerError("Prosody is not installed")
        return output_of("dpkg-query", "-W", "-f=${Version}", "prosody") or "unknown"

    def prepare(self, accounts: Accounts) -> None:
        place, data = self.place, self.place.folder / "data"
        for name in ("accounts", "roster"):
            (data / DOMAIN / name).mkdir(parents=True)
        modules = "; ".join(f'"{name}"' for name in self.modules.split())
        (place.folder / "prosody.cfg.lua").write_text(
            f"""daemonize = false
pidfile = "{place.folder}/prosody.pid"
data_path = "{data}"
log = {{ warn = "{place.folder}/prosody.log" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {place.port} }}
c2s_direct_tls_ports = {{ {place.port + 1} }}
s2s_ports = {{}}
http_ports = {{}}
https_ports = {{}}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
password_hash = "SHA-256"
default_iteration_count = {ITERATIONS}
storage = "internal"
limits = {{}}
{self.tuning}
{self.extra}
ssl = {{ certificate = "{place.certificate}"; key = "{place.key}" }}
modules_enabled = {{ {modules} }}
modules_disabled = {{ "s2s"; "posix" }}
VirtualHost "{DOMAIN}"
"""
        )
        account = _prosody_account()
        for name in accounts.names:
            (data / DOMAIN / "accounts" / f"{name}.dat").write_text(account)
            if contacts := accounts.contacts(name):
                roster = data / DOMAIN / "roster" / f"{name}.dat"
                roster.write_text(_prosody_roster(contacts))
        self.give_to("prosody")

    def command(self) -> list[str]:
        config = str(self.place.folder / "prosody.cfg.lua")
        return [*as_user("prosody"), "prosody", "-F", "--config", config]


class ProsodyDefault(Prosody):
    """The same with the collector that it comes with."""

    name = "prosody-default"
    label = "Prosody, default"
    tuning = ""
    is_default = True


def _prosody_account() -> str:
    """An account as mod_auth_internal_hashed stores it: keys in hexadecimal."""
    stored = keys(SALT)
    return (
        f'return {{ ["iteration_count"] = {ITERATIONS}; ["salt"] = "{stored.salt}"; '
        f'["stored_key"] = "{stored.stored.hex()}"; '
        f'["server_key"] = "{stored.server.hex()}"; }};\n'
    )


def _prosody_roster(contacts: Sequence[str]) -> str:
    """A roster as core.rostermanager stores it."""
    items = "".join(
        f'["{contact}@{DOMAIN}"] = {{ ["subscription"] = "both"; ["groups"] = {{}}; }}; '
        for contact in contacts
    )
    return f'return {{ [false] = {{ ["version"] = 1; ["pending"] = {{}}; }}; {items}}};\n'


class Ejabberd(Server):
    """Debian's ejabberd; its schedulers do not spin while they wait."""

    name = "ejabberd"
    label = "ejabberd, no spin"
    tuning = "+sbwt none +sbwtdcpu none +sbwtdio none"
    modules = (
        "mod_adhoc mod_admin_extra mod_blocking mod_caps mod_carboncopy mod_client_state "
        "mod_configure mod_disco mod_last mod_offline mod_ping mod_privacy mod_private "
        "mod_stream_mgmt mod_time mod_vcard mod_version"
    )
    extra: ClassVar[str] = ""
    """Further modules with their options."""

    @classmethod
    def version(cls) -> str:
        if shutil.which("ejabberdctl") is None:
            raise ServerError("ejabberd is not installed")
        return output_of("dpkg-query", "-W", "-f=${Version}", "ejabberd") or "unknown"

    def prepare(self, accounts: Accounts) -> None:
        place = self.place
        for name in ("spool", "log"):
            (place.folder / name).mkdir()
        modules = "\n".join(f"  {name}: {{}}" for name in self.modules.split())
        (place.folder / "ejabberd.yml").write_text(
            f"""hosts: [{DOMAIN}]
loglevel: warning
certfiles: ["{place.folder}/both.pem"]
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha256
language: en
listen:
  - {{ip: 127.0.0.1, port: {place.port}, module: ejabberd_c2s}}
  - {{ip: 127.0.0.1, port: {place.port + 1}, module: ejabberd_c2s, tls: true}}
  - ip: 127.0.0.1
    port: {place.port + 2}
    module: ejabberd_http
    request_handlers: {{"/api": mod_http_api}}
api_permissions:
  bench: {{from: [mod_http_api], who: all, what: "*"}}
modules:
{modules}
  mod_pubsub: {{plugins: [flat, pep]}}
  mod_roster: {{versioning: true}}
{self.extra}
"""
        )
        (place.folder / "ejabberdctl.cfg").write_text(
            f"ERLANG_NODE=bench{place.port}@{DOMAIN}\nINET_DIST_INTERFACE=127.0.0.1\n"
            f'ERL_DIST_PORT={place.port + 3}\nERL_OPTIONS="{self.tuning}"\n'
        )
        (place.folder / "inetrc").write_text("{lookup,[file,native]}.\n")
        both = place.folder / "both.pem"
        both.write_text(place.certificate.read_text() + place.key.read_text())
        (place.folder / "accounts.xml").write_text(_portable(accounts))
        self.give_to("ejabberd")

    def command(self) -> list[str]:
        folder = self.place.folder
        return [
            *as_user("ejabberd"), "ejabberdctl",
            "--config-dir", str(folder), "--config", str(folder / "ejabberd.yml"),
            "--ctl-config", str(folder / "ejabberdctl.cfg"),
            "--spool", str(folder / "spool"), "--logs", str(folder / "log"), "foreground",
        ]  # fmt: skip

    def populate(self) -> None:
        link = http.client.HTTPConnection(self.administration, timeout=IMPORT_S)
        body = {"file": str(self.place.folder / "accounts.xml")}
        link.request("POST", "/api/import_piefxis", json.dumps(body))
        answer = link.getresponse()
        text = answer.read().decode(errors="replace")
        link.close()
        if answer.status != HTTPStatus.OK:
            raise ServerError(f"no accounts: {text}")


class EjabberdDefault(Ejabberd):
    """The same with schedulers that spin before they sleep."""

    name = "ejabberd-default"
    label = "ejabberd, default"
    tuning = ""
    is_default = True


def _portable(accounts: Accounts) -> str:
    """Accounts and rosters in the format of XEP-0227."""
    stored = keys(SALT)
    credentials = (
        "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-256'>"
        f"<iter-count>{ITERATIONS}</iter-count><salt>{_twice(stored.salt.encode())}</salt>"
        f"<server-key>{_twice(stored.server)}</server-key>"
        f"<stored-key>{_twice(stored.stored)}</stored-key></scram-credentials>"
    )
    users = []
    for name in accounts.names:
        contacts = accounts.contacts(name)
        items = "".join(f"<item jid='{one}@{DOMAIN}' subscription='both'/>" for one in contacts)
        roster = f"<query xmlns='jabber:iq:roster'>{items}</query>" if items else ""
        users.append(f"<user name='{name}'>{credentials}{roster}</user>")
    return (
        "<?xml version='1.0'?><server-data xmlns='urn:xmpp:pie:0'>"
        f"<host jid='{DOMAIN}'>{''.join(users)}</host></server-data>"
    )


def _twice(content: bytes) -> str:
    """ejabberd 23.01 keeps the Base64 itself, and encodes that again when it exports it."""
    return base64.b64encode(base64.b64encode(content)).decode()
