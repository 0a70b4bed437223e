//! Answers of a server.

use std::{collections::BTreeMap, ops::Deref};

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use taskforge_domain::Json;

/// An answer: its text, in which each number is as it was written, and a tree to look things up in.
///
/// The tree knows a number to 64 bits only, so what a task was given and what it gave is taken from
/// the text, by [`Answer::member`].
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct Answer {
    text: Json,
    #[serde(skip)]
    tree: Value,
}

impl Answer {
    /// Reads JSON text.
    pub(crate) fn parse(text: String) -> Result<Self, serde_json::Error> {
        Json::parse(text).map(Self::from)
    }

    /// A member of an object, as it was written; `null` if there is none.
    pub(crate) fn member(&self, name: &str) -> Self {
        match members(self.text.as_str()).and_then(|mut members| members.remove(name)) {
            Some(member) => Self::from(member),
            None => Self::from(Json::from(Value::Null)),
        }
    }

    /// The elements of a list that is a member of an object, as they were written.
    pub(crate) fn list(&self, name: &str) -> Vec<Self> {
        let text = self.member(name).text;
        let elements = serde_json::from_str::<Vec<Json>>(text.as_str()).unwrap_or_default();
        elements.into_iter().map(Self::from).collect()
    }

    /// The JSON text.
    pub(crate) fn text(&self) -> &str {
        self.text.as_str()
    }
}

impl From<Json> for Answer {
    fn from(text: Json) -> Self {
        let tree = tree(text.as_str());
        Self { text, tree }
    }
}

impl Deref for Answer {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.tree
    }
}

fn members(text: &str) -> Option<BTreeMap<String, Json>> {
    serde_json::from_str(text).ok()
}

/// A tree in which one number that is out of every range costs itself and not all the rest.
fn tree(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    if let Some(members) = members(text) {
        let members = members.into_iter();
        return members.map(|(name, member)| (name, tree(member.as_str()))).collect();
    }
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(elements) => elements.into_iter().map(|element| tree(element.get())).collect(),
        Err(_) => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_as_they_were_written() {
        let text = r#"{"id":"a","input":{"n":12345678901234567890123,"x":1.10,"e":1e400},"list":[0.10,2]}"#;
        let answer = Answer::parse(text.to_owned()).unwrap();
        assert_eq!(answer["id"], "a");
        assert_eq!(answer["input"]["e"], "1e400");
        assert_eq!(
            answer.member("input").text(),
            r#"{"n":12345678901234567890123,"x":1.10,"e":1e400}"#
        );
        let list: Vec<_> = answer.list("list").iter().map(|one| one.text().to_owned()).collect();
        assert_eq!(list, ["0.10", "2"]);
        assert_eq!(answer.member("none").text(), "null");
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
    }
}
