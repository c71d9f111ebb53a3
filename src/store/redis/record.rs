//! Records of sessions in Redis: a text, or a hash.

use ::redis::{Cmd, Value};

use super::{Link, code};
use crate::store::{Record, RecordForm, RecordValue, StoreError};

/// The command that reads a record.
pub(super) fn ask(name: &str, form: RecordForm) -> Cmd {
    let mut command = ::redis::cmd(match form {
        RecordForm::Text => "GET",
        RecordForm::Hash => "HGETALL",
    });
    command.arg(name);
    command
}

/// What was read; `None` where nothing is there, or where it is no answer (`Err`).
#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed is no answer")]
pub(super) fn read(reply: &Value, form: RecordForm) -> Result<Option<RecordValue>, ()> {
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => Ok(bytes.clone()),
        Value::SimpleString(text) => Ok(text.clone().into_bytes()),
        _ => Err(()),
    };
    let fields = match (reply, form) {
        (Value::Nil, RecordForm::Text) => return Ok(None),
        (value, RecordForm::Text) => return bytes(value).map(|bytes| Some(RecordValue::Text(bytes))),
        // In RESP3, and in RESP2.
        (Value::Map(pairs), RecordForm::Hash) => {
            pairs.iter().map(|(name, value)| Ok((bytes(name)?, bytes(value)?))).collect::<Result<Vec<_>, ()>>()?
        }
        (Value::Array(flat), RecordForm::Hash) => {
            let pairs = flat.chunks(2).map(|pair| match pair {
                [name, value] => Ok((bytes(name)?, bytes(value)?)),
                _ => Err(()),
            });
            pairs.collect::<Result<Vec<_>, ()>>()?
        }
        (_, RecordForm::Hash) => return Err(()),
    };
    Ok((!fields.is_empty()).then(|| RecordValue::hash(fields)))
}

impl Link {
    /// Reads the record of a session, and how long it lives.
    pub(in crate::store) async fn record(&self, key: &str, form: RecordForm) -> Result<Option<Record>, StoreError> {
        let mut life = ::redis::cmd("PTTL");
        life.arg(key);
        // First: what is gone after it was not there for so long, and what came after it lives longer.
        let life = self.command(key, life).await?;
        let said = self.command(key, ask(key, form)).await?;
        let odd = || StoreError::Refused(code(&said).unwrap_or_else(|| "an odd answer".to_owned()));
        let Some(value) = read(&said, form).map_err(|()| odd())? else { return Ok(None) };
        let remaining = if let Value::Int(millis) = life { u64::try_from(millis).ok() } else { None };
        Ok(Some(Record { value, remaining }))
    }

    /// Has a record live for so many milliseconds from now on; whether it is there.
    pub(in crate::store) async fn touch(&self, key: &str, life: u64) -> Result<bool, StoreError> {
        let mut touch = ::redis::cmd("PEXPIRE");
        touch.arg(key).arg(life);
        Ok(self.command(key, touch).await? == Value::Int(1))
    }
}
