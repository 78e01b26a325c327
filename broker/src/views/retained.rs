//! Retained messages.

use std::sync::Arc;

use admin::bridge::Payload;
use admin::retained::{
    LIMIT_DEFAULT, LIMIT_MAX, PAYLOAD_BYTES_MAX, PREFIX_BYTES, Retained, RetainedMessages,
    RetainedQuestion,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mqtt::{Filter, Topic};
use serde::{Deserialize, Serialize};
use session::{Message, WallMs};

use super::merged::Merged;
use super::{Led, ViewError, unled};
use crate::control::{Question, ask_each};
use crate::http::AdminState;

/// What the leader of shards is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    shards: Vec<u16>,
    filter: String,
    after: Option<String>,
    limit: usize,
    /// Bytes of each payload that are wanted.
    payload_bytes: usize,
}

/// What it answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Page {
    messages: Vec<Retained>,
    next: Option<String>,
    /// Shards that it does not lead.
    unled: Vec<u16>,
}

/// Retained messages of the whole cluster, asked of the leaders of their shards.
pub(crate) async fn list(
    state: &Arc<AdminState>,
    asked: RetainedQuestion,
) -> Result<RetainedMessages, ViewError> {
    let filter = filter_of(&asked.filter).map_err(ViewError::Asked)?;
    let shards = state.shared.homes.retained_of(&filter);
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let wanted = Asked {
        shards: Vec::new(),
        filter: asked.filter,
        after: asked.after,
        limit,
        payload_bytes: match filter.has_wildcard() {
            true => PREFIX_BYTES,
            false => PAYLOAD_BYTES_MAX,
        },
    };
    let led = Led::of(state, shards);
    let questions = led.by_node.into_iter().map(|(node, shards)| {
        let wanted = wanted.clone();
        (node, Question::Retained(Asked { shards, ..wanted }))
    });
    let (mut not_led, mut missing) = (led.unled, Vec::new());
    let mut merged = by_topic(limit);
    for (node, page) in ask_each::<Page>(state, questions.collect()).await {
        match page {
            Ok(page) => {
                not_led.extend(page.unled);
                merged.add(page.messages, page.next);
            }
            Err(why) => missing.push(format!("node {}: {why}", node.0)),
        }
    }
    missing.extend(unled(&not_led));
    let (messages, next) = merged.finish();
    Ok(RetainedMessages {
        messages,
        next,
        missing,
    })
}

/// The answer of the leader of shards.
pub(crate) async fn page(state: &AdminState, asked: Asked) -> Result<Page, String> {
    let filter = filter_of(&asked.filter)?;
    let after = asked.after.as_deref().map(Topic::try_from).transpose();
    let after = after.map_err(|error| format!("after: {error}"))?;
    let limit = asked.limit.min(LIMIT_MAX);
    let payload_bytes = asked.payload_bytes.min(PAYLOAD_BYTES_MAX);
    let mut merged = by_topic(limit);
    let mut unled = Vec::new();
    for shard in asked.shards {
        let (filter, after) = (filter.clone(), after.clone());
        let looked = state.shards.look(shard, move |seen| {
            let durable = seen.durable;
            // One more, to know whether there is more.
            let rows = durable.retained_behind(&filter, after.as_ref(), limit + 1, seen.now);
            (rows, seen.now, seen.leads)
        });
        let Some((mut rows, now, true)) = looked.await else {
            unled.push(shard);
            continue;
        };
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more);
        let next = next.map(|row| row.topic.to_string());
        let shown = rows.iter().map(|row| shown(shard, row, payload_bytes, now));
        merged.add(shown.collect(), next);
    }
    let (messages, next) = merged.finish();
    Ok(Page {
        messages,
        next,
        unled,
    })
}

fn filter_of(text: &str) -> Result<Filter, String> {
    let filter = Filter::try_from(text).map_err(|error| format!("filter {text:?}: {error}"))?;
    match filter.shared() {
        Some(_) => Err(format!(
            "filter {text:?}: shared subscriptions get no retained messages"
        )),
        None => Ok(filter),
    }
}

/// In the order in which shards keep them: level by level.
fn by_topic(limit: usize) -> Merged<Retained> {
    Merged::new(
        limit,
        |row: &Retained| &row.topic,
        |a, b| a.split('/').cmp(b.split('/')),
    )
}

fn shown(shard: u16, message: &Message, payload_bytes: usize, now: WallMs) -> Retained {
    let cut = message.payload.len().min(payload_bytes);
    let is_cut = cut < message.payload.len();
    Retained {
        topic: message.topic.to_string(),
        shard,
        qos: message.qos as u8,
        publisher: message.publisher.as_ref().map(|id| id.to_string()),
        received_ms: message.received.0,
        expires_in_s: message.expiry.map(|at| at.0.saturating_sub(now.0) / 1_000),
        payload_bytes: message.payload.len() as u64,
        payload: payload(&message.payload[..cut], is_cut),
        is_cut,
    }
}

/// Text if it is, but for a character that was cut through.
fn payload(bytes: &[u8], is_cut: bool) -> Payload {
    match std::str::from_utf8(bytes) {
        Ok(text) => Payload::Text(text.to_owned()),
        Err(error) if is_cut && error.error_len().is_none() => {
            let whole = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            Payload::Text(whole.into_owned())
        }
        Err(_) => Payload::Base64(BASE64_STANDARD.encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_if_it_is_even_when_cut_within_a_character() {
        let text = "grüß".as_bytes();
        assert_eq!(payload(&text[..3], true), Payload::Text("gr".into()));
        assert_eq!(payload(&text[..3], false), Payload::Base64("Z3LD".into()));
        assert_eq!(payload(text, false), Payload::Text("grüß".into()));
        assert_eq!(payload(&[0xff, 0xfe], true), Payload::Base64("//4=".into()));
    }
}
