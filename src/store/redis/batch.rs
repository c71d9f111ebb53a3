//! Look-ups become one pipeline, and its replies their answers.
//!
//! What is not clearly an answer is `Unknown`: an error, a reply of another type, a reply too few.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{Pipeline, Value};
use tokio::time::timeout;

use super::cluster::redirect;
use super::node::{Answer, Ask, Connected, Shared};
use super::record;
use crate::store::{Found, Standing, StandingKeys, judge_not_before};

/// Adds the commands that ask for one token's standing; says how many there are.
pub(super) fn ask(pipeline: &mut Pipeline, keys: &StandingKeys) -> usize {
    if !keys.present.is_empty() {
        pipeline.cmd("EXISTS").arg(keys.present.iter().map(|key| &**key).collect::<Vec<_>>());
    }
    for key in &keys.times {
        pipeline.cmd("GET").arg(&**key);
    }
    if let Some(key) = &keys.record {
        pipeline.add_command(record::ask(&key.name, key.form));
    }
    usize::from(!keys.present.is_empty()) + keys.times.len() + usize::from(keys.record.is_some())
}

/// Ends a pipeline with a word of its own; its echo tells that the replies are those to this pipeline.
pub(super) fn end_with_word(pipeline: &mut Pipeline) -> String {
    let word = format!("{:016x}", fastrand::u64(..));
    pipeline.cmd("PING").arg(&word);
    word
}

/// Whether this is the echo of the word.
pub(super) fn is_word(reply: Option<&Value>, word: &str) -> bool {
    matches!(reply, Some(Value::BulkString(bytes)) if bytes == word.as_bytes())
}

/// Sends one batch as one pipeline and hands out the answers.
pub(super) async fn answer(shared: Arc<Shared>, mut connected: Connected, batch: Vec<Ask>, deadline: Duration) {
    let mut pipeline = Pipeline::with_capacity(batch.len() * 2);
    for one in &batch {
        if one.is_asking {
            pipeline.cmd("ASKING");
        }
        ask(&mut pipeline, &one.keys);
    }
    let count = pipeline.len() + 1;
    let word = end_with_word(&mut pipeline);
    let replies = match timeout(deadline, connected.connection.send_packed_commands(&pipeline, 0, count)).await {
        Ok(Ok(replies)) if replies.len() == count && is_word(replies.last(), &word) => replies,
        // A refusal is an answer; the driver of the control runtime notices and says so.
        Ok(Err(error)) if error.code().is_some() => Vec::new(),
        Ok(_) | Err(_) => {
            shared.give_up(connected.generation);
            Vec::new()
        }
    };
    let mut replies = replies.into_iter();
    for ask in batch {
        if ask.is_asking {
            replies.next();
        }
        let mut elsewhere = None;
        let mut next = || {
            let reply = replies.next();
            elsewhere = elsewhere.take().or_else(|| reply.as_ref().and_then(redirect));
            reply
        };
        let present = if ask.keys.present.is_empty() { Standing::Clear } else { judge_presence(next().as_ref()) };
        let times = ask.keys.times.iter().map(|_| judge_time(next().as_ref(), ask.keys.issued_at));
        let standing = times.fold(present, Standing::worse);
        let record = ask.keys.record.as_ref().map(|key| match next().map(|reply| record::read(&reply, key.form)) {
            Some(Ok(there)) => key.judge(there.as_ref().map_or(Found::Nothing, Found::Value)),
            Some(Err(())) | None => key.judge(Found::Unreadable),
        });
        let standing = record.map_or(standing, |record| record.worse(standing));
        // A caller that has gone away does not want the answer any more.
        let _gone = ask.answer.send(elsewhere.map_or(Answer::Said(standing), Answer::Elsewhere));
    }
}

fn judge_presence(reply: Option<&Value>) -> Standing {
    match reply {
        Some(Value::Int(0)) => Standing::Clear,
        Some(Value::Int(_)) => Standing::Revoked,
        _ => Standing::Unknown,
    }
}

fn judge_time(reply: Option<&Value>, issued_at: i64) -> Standing {
    match reply {
        Some(Value::Nil) => Standing::Clear,
        Some(Value::BulkString(bytes)) => {
            std::str::from_utf8(bytes).map_or(Standing::Unknown, |text| judge_not_before(text, issued_at))
        }
        _ => Standing::Unknown,
    }
}
