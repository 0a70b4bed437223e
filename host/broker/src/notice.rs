//! What processes tell each other through the store, as text: a word, a space, and
//!
//! - `look`: types of which there are tasks to find, comma-separated;
//! - `tell`: signals, each a letter and 32 hexadecimal digits of the task's id.
//!
//! An empty notice says that some were missed. Words that a later version may add are passed over.

use std::collections::BTreeSet;

use taskforge_domain::TaskType;
use uuid::Uuid;

use crate::{MAX_NOTICE, Signal};

/// A notice that was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Look(Vec<String>),
    Tell(Vec<Signal>),
    Missed,
    Unknown,
}

/// Bytes of a signal.
const SIGNAL: usize = 33;

impl Notice {
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once(' ') {
            Some(("look", types)) => Self::Look(types.split(',').map(str::to_owned).collect()),
            Some(("tell", signals)) => {
                Self::Tell(signals.as_bytes().chunks(SIGNAL).filter_map(signal).collect())
            }
            _ if text.is_empty() => Self::Missed,
            _ => Self::Unknown,
        }
    }
}

fn signal(bytes: &[u8]) -> Option<Signal> {
    let (kind, id) = bytes.split_first()?;
    Signal::of_parts(*kind, Uuid::try_parse_ascii(id).ok()?)
}

/// Notices that there are tasks of these types.
pub(crate) fn look(types: &BTreeSet<TaskType>) -> Vec<String> {
    pack("look ", types.iter().map(|name| name.as_str().to_owned()), ",")
}

/// Notices of these signals.
pub(crate) fn tell(signals: &[Signal]) -> Vec<String> {
    let texts = signals.iter().map(|signal| {
        let (kind, id) = signal.parts();
        format!("{}{}", char::from(kind), id.simple())
    });
    pack("tell ", texts, "")
}

fn pack(word: &str, items: impl Iterator<Item = String>, between: &str) -> Vec<String> {
    let mut notices: Vec<String> = Vec::new();
    for item in items {
        match notices.last_mut() {
            Some(notice) if notice.len() + between.len() + item.len() <= MAX_NOTICE => {
                notice.push_str(between);
                notice.push_str(&item);
            }
            _ => notices.push(format!("{word}{item}")),
        }
    }
    notices
}

#[cfg(test)]
mod tests {
    use taskforge_domain::TaskId;

    use super::*;

    #[test]
    fn signals_are_packed_as_many_as_fit() {
        let signals: Vec<_> = (0..1000)
            .map(|_| Signal::Finished(TaskId::generate()))
            .chain([Signal::Policy, Signal::Plugins, Signal::Cancel(TaskId::generate())])
            .collect();
        let notices = tell(&signals);
        assert_eq!(notices.len(), 5);
        assert!(notices.iter().all(|notice| notice.len() <= MAX_NOTICE));
        let received: Vec<_> = notices
            .iter()
            .flat_map(|notice| match Notice::parse(notice) {
                Notice::Tell(signals) => signals,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(received, signals);
    }

    #[test]
    fn types_are_named_once_in_as_few_notices_as_fit() {
        let types: BTreeSet<_> =
            (0..200).map(|n| TaskType::new(&format!("t{n:099}")).unwrap()).collect();
        let notices = look(&types);
        assert_eq!(notices.len(), 3);
        assert!(notices.iter().all(|notice| notice.len() <= MAX_NOTICE));
    }

    #[test]
    fn unknown_words_are_passed_over() {
        for text in ["hello", "later words", "tell x", "tell"] {
            let notice = Notice::parse(text);
            assert!(
                matches!(&notice, Notice::Unknown) || notice == Notice::Tell(Vec::new()),
                "{text}"
            );
        }
        assert_eq!(Notice::parse(""), Notice::Missed);
    }
}
