//! Addresses: no text panics, and what is prepared once stays as it is.
#![no_main]

use antiphon_xmpp::Jid;
use antiphon_xmpp::jid::{prepare_opaque, prepare_username};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(jid) = Jid::parse(text) {
        let again = Jid::parse(jid.as_str()).expect("a prepared address parses");
        assert_eq!(again, jid);
        let parts = Jid::from_parts(jid.local(), jid.domain(), jid.resource());
        assert_eq!(parts.as_ref(), Ok(&jid));
        assert_eq!(jid.with_resource("x").expect("valid").bare(), jid.bare());
    }
    if let Ok(password) = prepare_opaque(text) {
        assert_eq!(prepare_opaque(&password).as_ref(), Ok(&password));
    }
    if let Ok(name) = prepare_username(text) {
        assert_eq!(prepare_username(&name).as_ref(), Ok(&name));
    }
});
