//! What every storage engine does: one suite, run over each by `contract_suite!`.
//!
//! An engine brings a [`Place`]. The tests are functions over it; each names one behaviour.

pub mod accounts;
pub mod archive;
pub mod corrections;
pub mod inbox;
pub mod lists;
pub mod map;
pub mod offline;
pub mod order;
pub mod search;

use antiphon_routing::store::{Done, Store, StoreError, UserRecord, Write};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash, ScramKeys};
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// How long anything may take before a test calls it lost.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where an engine keeps its data: empty at first, and there until it is dropped.
pub trait Place {
    /// Whether there is what this part of the suite needs (a server); without it nothing is tested.
    fn is_there(_part: &str) -> bool {
        true
    }
    /// An empty one.
    fn new() -> Self;
    /// Opens an engine on it whose queue holds this many writes. Opened again after `close`, it
    /// has what was committed.
    fn open(&self, queue: usize) -> Arc<dyn Store>;
    /// The clock's time in engines of this place, ms.
    fn now_ms(&self) -> u64;
}

/// A queue that no test fills by accident.
pub const ROOM: usize = 10_000;

/// Runs a future on this thread.
pub fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let begin = std::time::Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        assert!(begin.elapsed() < PATIENCE, "no answer");
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

/// Writes and waits for the commit.
pub fn put(store: &dyn Store, write: Write) -> Result<(), StoreError> {
    let (told, tell) = channel();
    store.write(write, tell_into(&told));
    tell.recv_timeout(PATIENCE).expect("told of the commit")
}

/// A `Done` that sends what it is told.
pub fn tell_into(told: &Sender<Result<(), StoreError>>) -> Done {
    let told = told.clone();
    Box::new(move |outcome| drop(told.send(outcome)))
}

/// Queues a write whose end nobody watches.
pub fn queue(store: &dyn Store, write: Write) {
    store.write(write, Box::new(drop));
}

/// Stops the engine from telling anybody of a commit (and so from beginning the next one) until
/// it is dropped.
pub struct Stalled {
    release: Option<Sender<()>>,
}

impl Stalled {
    /// Returns when the engine stands still.
    pub fn new(store: &dyn Store, write: Write) -> Self {
        let (release, released) = channel::<()>();
        let (began, begin) = channel();
        let released: Mutex<Receiver<()>> = Mutex::new(released);
        store.write(
            write,
            Box::new(move |outcome| {
                began.send(outcome).expect("the test waits");
                let _ = released.lock().expect("one user").recv();
            }),
        );
        begin
            .recv_timeout(PATIENCE)
            .expect("the engine got there")
            .expect("committed");
        Self {
            release: Some(release),
        }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        drop(self.release.take());
    }
}

/// A valid address.
pub fn jid(text: &str) -> Jid {
    Jid::parse(text).expect(text)
}

/// Keys that differ by `seed`.
pub fn credentials(seed: u8) -> Credentials {
    let keys = |hash, length: usize| ScramKeys {
        hash,
        iterations: 4096 + u32::from(seed),
        salt: vec![seed; 16].into(),
        stored_key: vec![seed.wrapping_add(1); length].into(),
        server_key: vec![seed.wrapping_add(2); length].into(),
    };
    Credentials {
        keys: vec![keys(ScramHash::Sha512, 64), keys(ScramHash::Sha256, 32)],
        is_enabled: true,
    }
}

/// A new account.
pub fn create(store: &dyn Store, account: &str) -> Jid {
    let account = jid(account);
    put(
        store,
        Write::AccountCreate {
            jid: account.clone(),
            credentials: credentials(1),
        },
    )
    .expect("created");
    account
}

/// The record of an account that is there.
pub fn record(store: &dyn Store, account: &Jid) -> UserRecord {
    wait(store.user(account))
        .expect("answered")
        .expect("an account")
}

/// Texts that break what is not careful: quotes of SQL and CQL, wildcards, NUL, what is not ASCII.
pub const NASTY: &[&str] = &[
    "'; DROP TABLE owner; --",
    "\" OR \"\"=\"",
    "%_*?[a-z]",
    "nul\0inside",
    "\0",
    "Übergröße ﬁ 日本語 👩‍👩‍👧‍👦",
    "\u{202e}right to left",
    "line\nbreak\ttab\r",
    "\\'\\\"$$1 :name @p ?1",
    "{\"json\": [null]}",
    "\u{10ffff}\u{e000}",
];

/// Makes every test of the suite a `#[test]` over a [`Place`].
#[macro_export]
macro_rules! contract_suite {
    ($place:ty) => {
        $crate::contract_suite!($place, accounts:
            a_new_account_can_be_read_back
            an_account_is_created_only_once
            an_update_replaces_all_keys_and_the_state
            an_update_of_a_missing_account_fails
            a_put_creates_and_then_updates
            a_missing_account_has_neither_record_nor_keys
            a_resourcepart_does_not_matter
            a_domain_is_no_account
            an_account_may_have_no_keys
            accounts_are_listed_by_localpart_in_pages
            domains_do_not_see_each_others_accounts
            a_listing_sees_what_is_queued
            deletion_removes_everything_of_the_account
            deletion_of_a_missing_account_fails
            writes_about_a_missing_account_fail_and_leave_nothing
        );
        $crate::contract_suite!($place, lists:
            a_roster_item_comes_back_as_it_was_put
            a_roster_item_is_replaced_as_a_whole
            a_removed_roster_item_is_gone
            every_subscription_state_survives
            the_record_is_sorted_by_address
            a_request_is_kept_once_a_contact
            the_block_list_takes_every_form_of_an_address
            an_unblock_of_nothing_empties_the_list
            the_last_activity_is_kept
            nasty_texts_come_back_unchanged
            a_large_roster_comes_back_whole
        );
        $crate::contract_suite!($place, offline:
            messages_come_back_in_the_order_of_arrival
            messages_are_read_in_pages
            only_the_named_messages_are_deleted
            another_users_messages_cannot_be_deleted
            ids_grow_and_are_never_used_again
            ids_are_not_used_again_by_a_new_account_of_the_name
            any_bytes_are_kept
            a_message_of_a_megabyte_is_kept
            limits_out_of_range_are_moved_into_it
        );
        $crate::contract_suite!($place, map:
            a_value_comes_back_and_is_replaced
            an_empty_value_removes
            kinds_and_owners_are_apart
            keys_are_listed_by_prefix
            nasty_keys_are_only_keys
            a_domain_has_a_map_of_its_own
            too_many_keys_are_refused
            too_large_keys_and_values_are_refused
        );
        $crate::contract_suite!($place, archive:
            a_message_is_in_both_archives
            any_stanza_comes_back_as_it_was
            a_uid_that_is_there_already_changes_nothing
            an_id_need_not_be_the_uid
            pages_meet_without_gap_or_overlap
            a_page_is_cut_by_ids_on_both_sides
            messages_are_found_by_the_other_side
            messages_are_found_by_their_ids
            groupchat_can_be_left_out
            counts_are_exact_or_not_told
            the_ends_of_an_archive_are_told
            collections_are_conversations_by_day
            a_retracted_message_becomes_a_tombstone
            only_a_message_of_the_right_side_is_edited
            the_newest_of_equal_message_ids_is_meant
            a_purge_takes_what_is_older
            preferences_come_back
            a_clean_end_leaves_nothing_recent
            an_offline_message_may_lie_in_the_archive
            without_an_account_nothing_is_archived
            a_deleted_account_leaves_no_archive
            concurrent_senders_lose_nothing_and_keep_their_order
        );
        $crate::contract_suite!($place, corrections:
            the_inbox_shows_what_was_corrected_and_counts_it_once
            only_the_newest_correction_is_found_and_a_retraction_takes_all
        );
        $crate::contract_suite!($place, inbox:
            messages_make_entries_and_count
            a_message_may_leave_the_inbox_alone
            a_marker_in_the_middle_leaves_the_exact_rest
            an_owner_changes_his_entries
            a_message_brings_an_entry_out_of_the_archive_alone
            the_bin_is_emptied_by_age
            an_inbox_is_filtered_and_counted
            an_inbox_is_read_in_slices
            an_entry_outlives_its_messages
        );
        $crate::contract_suite!($place, search:
            all_terms_must_occur
            only_the_own_archive_is_searched
            a_search_has_the_other_filters_too
            what_was_edited_or_purged_is_not_found
            only_searchable_messages_are_found
            messages_with_ids_of_their_own_are_found_in_order
            beginnings_of_words_are_found_among_many_messages
            phrases_of_common_words_are_found_among_many_messages
            hostile_searches_are_only_text
        );
        $crate::contract_suite!($place, order:
            a_read_sees_what_was_queued_before_it
            a_read_of_another_owner_does_not_wait_for_ever
            callbacks_come_in_the_order_of_the_writes
            a_full_queue_answers_busy_at_once
            what_was_accepted_before_busy_is_committed
            a_group_with_failing_writes_commits_the_others
            a_panicking_callback_harms_nobody
            concurrent_writers_keep_their_own_order
            everything_is_there_after_reopening
            close_commits_what_is_queued
            after_close_everything_is_closed
            a_second_close_does_nothing
            a_dropped_read_harms_nobody
            the_last_handle_may_go_in_a_callback
        );
    };
    ($place:ty, $module:ident: $($name:ident)*) => {
        mod $module {
            use super::*;
            $(#[test] fn $name() {
                if <$place as $crate::contract::Place>::is_there(stringify!($module)) {
                    $crate::contract::$module::$name::<$place>();
                }
            })*
        }
    };
}
