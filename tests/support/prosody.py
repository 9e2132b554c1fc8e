# SPDX-License-Identifier: Apache-2.0
"""Debian's Prosody as the server under test: the check on our expectations."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .certs import KeyPair
from .endpoint import Account
from .server import COMPONENT_SECRET, Server, ServerFailed, certificates

MODULES = (
    "roster saslauth tls disco carbons pep private blocklist vcard4 vcard_legacy version uptime "
    "time ping smacks csi_simple websocket lastactivity offline adhoc admin_adhoc announce "
    "server_contact_info iq message presence c2s {register}"
)
CONFIG = """
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ {{ levels = {{ min = "info" }}, to = "file", filename = "{folder}/prosody.log" }} }}
interfaces = {{ "{address}" }}
c2s_ports = {{ {c2s}, {plain} }}
c2s_direct_tls_ports = {{ {direct} }}
http_interfaces = {{ "{address}" }}
https_interfaces = {{ "{address}" }}
http_ports = {{ {http} }}
https_ports = {{ {https} }}
component_ports = {{ {component} }}
component_interfaces = {{ "{address}" }}
http_paths = {{ websocket = "/ws" }}
http_default_host = "{first}"
consider_websocket_secure = true
authentication = "internal_hashed"
password_hash = "SHA-1"
default_iteration_count = 4096
storage = "internal"
c2s_require_encryption = {encryption}
allow_unencrypted_plain_auth = false
allow_registration = {registration}
modules_enabled = {{ {modules} }}
modules_disabled = {{ "posix", "s2s" }}
limits = {{}}
c2s_stanza_size_limit = 262144
smacks_max_hibernated_sessions = 10
smacks_hibernation_time = 600
conflict_resolve = "kick_old"
admins = {{ "{admin}" }}
contact_info = {{ abuse = {{ "mailto:abuse@{first}" }} }}
ssl = {{ key = "{key}", certificate = "{certificate}" }}
{hosts}
"""
HOST = """VirtualHost "{domain}"
  ssl = {{ key = "{key}", certificate = "{certificate}" }}
"""
COMPONENT = """Component "{domain}"
  component_secret = "{secret}"
"""


def is_installed() -> bool:
    """Whether Debian's package is there."""
    return shutil.which("prosody") is not None


class Prosody(Server):
    """Prosody 0.12 in the foreground, as user prosody when we are root."""

    kind = "prosody"

    def start(self) -> None:
        """Writes the configuration, starts, waits for the ports."""
        if not is_installed():
            raise ServerFailed("prosody is missing: run `make deps`")
        pairs = self._own_copies(certificates(self.authority, self.settings.domains, self.address))
        register = "register" if self._allows_registration() else ""
        hosts = "".join(
            HOST.format(domain=d, key=pairs[d].key, certificate=pairs[d].certificate)
            for d in self.settings.domains
        ) + COMPONENT.format(domain=self.component_domain, secret=COMPONENT_SECRET)
        names = MODULES.format(register=register).split()
        ports = vars(self.ports)
        text = CONFIG.format(
            folder=self.folder,
            address=self.address,
            first=self.domain,
            admin=self.admin.jid,
            registration="true" if register else "false",
            encryption="false" if self._allows_clear_text() else "true",
            modules=", ".join(f'"{m}"' for m in names),
            key=pairs[self.domain].key,
            certificate=pairs[self.domain].certificate,
            hosts=hosts,
            **ports,
        )
        config = self.folder / "prosody.cfg.lua"
        config.write_text(text)
        self.create([self.admin])
        self.spawn([*self._as_user(), "prosody", "-F", "--config", str(config)])
        self.wait_until_open(self.ports.c2s, self.ports.direct, self.ports.http)

    def _own_copies(self, pairs: dict[str, KeyPair]) -> dict[str, KeyPair]:
        """The same files where the service user may read them."""
        return {
            domain: KeyPair(
                Path(shutil.copy(pair.certificate, self.folder)),
                Path(shutil.copy(pair.key, self.folder)),
            )
            for domain, pair in pairs.items()
        }

    def _allows_registration(self) -> bool:
        return any(name == "modules.register" for name, _ in self.settings.sections)

    def _allows_clear_text(self) -> bool:
        return any(
            name == "auth" and ("allow_plaintext", True) in keys
            for name, keys in self.settings.sections
        )

    def _as_user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        _own(self.folder)
        return ["setpriv", "--reuid=prosody", "--regid=prosody", "--clear-groups"]

    def log_text(self) -> str:
        """The end of Prosody's own log."""
        path = self.folder / "prosody.log"
        own = path.read_text(errors="replace")[-8000:] if path.exists() else ""
        return super().log_text() + own

    def create(self, accounts: list[Account]) -> None:
        """Writes account files, which Prosody reads at each login."""
        for account in accounts:
            host = account.domain.replace(".", "%2e")
            folder = self.folder / "data" / host / "accounts"
            folder.mkdir(parents=True, exist_ok=True)
            text = f'return {{\n\t["password"] = "{account.password}";\n}};\n'
            (folder / f"{account.user}.dat").write_text(text)
        if os.geteuid() == 0:
            _own(self.folder / "data")


def _own(folder: Path) -> None:
    shutil.chown(folder, "prosody", "prosody")
    for path in folder.rglob("*"):
        shutil.chown(path, "prosody", "prosody")
