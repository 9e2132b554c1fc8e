//! Makes a dictionary for stored stanzas out of messages as well-known clients write them.
//!
//! `cargo run --release -p antiphon-store --example train_dictionary -- FILE`
//!
//! A dictionary in use is never changed: another one gets another number, and a form of its own in
//! `src/sqlite/content.rs`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool for developers prints and may fail"
)]

/// Bytes of the dictionary: larger ones gain nothing on these samples.
const SIZE: usize = 8 * 1024;

/// Messages to learn from.
const SAMPLES: usize = 20_000;

/// The commonest words of chats, the commonest first; a few languages, so that none is strange.
const WORDS: &str = "i you the to a and it that of in is me on for my be so just have not this was \
    with do we but are your what at up know like all get can if out no go when will there now how \
    time one about think good see he got she they here from or want too really then time love yes \
    work today ok thanks please tomorrow come home still going need back day right well should some \
    would more why who had where him her as an am been were has did could only over them very let \
    make say because also week next last night morning meeting message send sent call later sure \
    maybe never always again great nice sorry hello hey yeah haha don't I'm it's can't won't that's \
    people year new phone train station dinner lunch coffee bring look looking something anything \
    everyone before after until since already ready done working server update version client \
    que de no la el es en lo un por qué me una te los se con para mi está si bien pero yo eso las \
    ich das ist du nicht die es und der wir zu ein er wie mir mit ja wenn mich war noch schon heute \
    je est pas le vous tu ne les et des nous mais oui avec pour bonjour merci \
    https://www.example.org/ https://example.com/watch?v= http:// .png .jpg ? ! . , ... :) :D ;)";

fn main() {
    let file = std::env::args().nth(1).unwrap();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let samples: Vec<Vec<u8>> = (0..SAMPLES)
        .map(|_| sample(&mut dice).into_bytes())
        .collect();
    let bytes: usize = samples.iter().map(Vec::len).sum();
    let dictionary = zstd::dict::from_samples(&samples, SIZE).unwrap();
    let mut packer = zstd::bulk::Compressor::with_dictionary(3, &dictionary).unwrap();
    packer.include_dictid(false).unwrap();
    let packed: usize = (0..1000)
        .map(|_| packer.compress(sample(&mut dice).as_bytes()).unwrap().len())
        .sum();
    println!(
        "{} bytes a message, {} packed",
        bytes / SAMPLES,
        packed / 1000
    );
    std::fs::write(file, dictionary).unwrap();
}

/// Numbers that are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length)
            .map(|_| char::from(alphabet[self.below(alphabet.len())]))
            .collect()
    }
}

/// A message in the form in which it is compressed: `\x01` and `\x02` for the two addresses.
fn sample(dice: &mut Dice) -> String {
    let id = id(dice);
    let to = match dice.below(4) {
        0 => format!("\x02/{}", resource(dice)),
        _ => "\x02".to_owned(),
    };
    let lang = dice.pick(&["", " xml:lang='en'", " xml:lang='en'", " xml:lang='de'"]);
    let type_ = dice.pick(&[" type='chat'", " type='chat'", " type='chat'", ""]);
    let body = body(dice);
    let active = "<active xmlns='http://jabber.org/protocol/chatstates'/>";
    let request = "<request xmlns='urn:xmpp:receipts'/>";
    let markable = "<markable xmlns='urn:xmpp:chat-markers:0'/>";
    let origin = format!("<origin-id xmlns='urn:xmpp:sid:0' id='{id}'/>");
    let content = match dice.below(12) {
        0..3 => format!("<body>{body}</body>{request}{markable}{origin}{active}"),
        3 => format!("<body>{body}</body>{markable}{origin}{request}"),
        4 => format!("<body>{body}</body>{origin}{active}{request}"),
        5 => format!("{active}<body>{body}</body>"),
        6 => format!("<body>{body}</body>{request}{active}<store xmlns='urn:xmpp:hints'/>"),
        7 => format!(
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='{id}'/>\
            <store xmlns='urn:xmpp:hints'/>{origin}"
        ),
        8 => format!(
            "<body>{body}</body><replace xmlns='urn:xmpp:message-correct:0' id='{id}'/>\
            {request}{markable}{origin}"
        ),
        9 => format!(
            "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='{}'>\
            <key rid='{}'>MwohB{}</key><iv>{}</iv></header><payload>{}</payload></encrypted>\
            <encryption xmlns='urn:xmpp:eme:0' namespace='eu.siacs.conversations.axolotl' \
            name='OMEMO'/><body>I sent you an OMEMO encrypted message but your client doesn’t seem \
            to support that.</body><store xmlns='urn:xmpp:hints'/>{request}{markable}{origin}",
            dice.next() >> 33,
            dice.next() >> 33,
            dice.text(BASE64, 80),
            dice.text(BASE64, 16),
            dice.text(BASE64, 64)
        ),
        10 => format!(
            "<reply xmlns='urn:xmpp:reply:0' to='\x02' id='{id}'/>\
            <fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='20'/>\
            </fallback><body>&gt; {body}</body>{origin}<thread>{id}</thread>"
        ),
        _ => format!("<body>{body}</body>"),
    };
    format!(
        "<message xmlns='jabber:client' from='\x01/{}' to='{to}' id='{id}'{type_}{lang}>\
         {content}</message>",
        resource(dice)
    )
}

const HEX: &[u8] = b"0123456789abcdef";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn id(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => dice.text(BASE64, 24),
        1 => format!("m{}", dice.next() >> 40),
        _ => [8, 4, 4, 4, 12]
            .map(|length| dice.text(HEX, length))
            .join("-"),
    }
}

fn resource(dice: &mut Dice) -> String {
    let name = dice.pick(&[
        "Conversations.",
        "gajim.",
        "dino.",
        "Monal-iOS.",
        "converse.js-",
        "Psi+",
        "phone",
        "laptop",
    ]);
    let length = [0, 4, 8][dice.below(3)];
    format!("{name}{}", dice.text(BASE64, length))
}

fn body(dice: &mut Dice) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let length = 2 + dice.below(26);
    let mut text = String::new();
    for n in 0..length {
        // The square makes the first words the commonest.
        let at = dice.below(words.len()) * dice.below(words.len()) / words.len();
        let word = words[at];
        if n > 0 {
            text.push(' ');
            text.push_str(word);
        } else {
            text.push_str(&word[..1].to_uppercase());
            text.push_str(&word[1..]);
        }
    }
    text
}
