# SPDX-License-Identifier: Apache-2.0
"""Every namespace and feature name that Python uses, once. Shared ones equal `ns.rs`."""

from typing import Final

CLIENT: Final = "jabber:client"
STANZA_ERRORS: Final = "urn:ietf:params:xml:ns:xmpp-stanzas"
ROSTER: Final = "jabber:iq:roster"

DATA: Final = "jabber:x:data"
DATA_VALIDATE: Final = "http://jabber.org/protocol/xdata-validate"
RSM: Final = "http://jabber.org/protocol/rsm"

DISCO_INFO: Final = "http://jabber.org/protocol/disco#info"
DISCO_ITEMS: Final = "http://jabber.org/protocol/disco#items"
CAPS: Final = "http://jabber.org/protocol/caps"
COMMANDS: Final = "http://jabber.org/protocol/commands"
ADMIN: Final = "http://jabber.org/protocol/admin"
SERVERINFO: Final = "http://jabber.org/network/serverinfo"

LAST: Final = "jabber:iq:last"
PRIVATE: Final = "jabber:iq:private"
REGISTER: Final = "jabber:iq:register"
VERSION: Final = "jabber:iq:version"
VCARD: Final = "vcard-temp"
TIME: Final = "urn:xmpp:time"
PING: Final = "urn:xmpp:ping"
DELAY: Final = "urn:xmpp:delay"
HINTS: Final = "urn:xmpp:hints"
BLOCKING: Final = "urn:xmpp:blocking"
CARBONS: Final = "urn:xmpp:carbons:2"
CARBONS_RULES: Final = "urn:xmpp:carbons:rules:0"
OFFLINE: Final = "msgoffline"
