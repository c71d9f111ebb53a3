//! What is written to the file at once.

use redb::{Database, ReadableTable};

use super::{ENDS, ENTRIES, What, Write};
use crate::clock::{self, steps::over_by};
use crate::store::strengthened;

/// Entries that are over and leave in one transaction at the most.
const SWEPT: usize = 4096;
/// One transaction: all of `writes`, and some entries that are over leave. Which of the writes were done.
pub(super) fn write(database: &Database, writes: &[Write]) -> Result<Vec<bool>, redb::Error> {
    let wall = clock::wall();
    let (now, over_by) = (clock::unix_millis(wall), over_by(wall, clock::monotonic()));
    let mut transaction = database.begin_write()?;
    // A file of any size is ready at once after a crash.
    transaction.set_quick_repair(true);
    let mut is_changed = !writes.is_empty();
    let mut all_done = Vec::with_capacity(writes.len());
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut ends = transaction.open_table(ENDS)?;
        for write in writes {
            let there = entries.get(&*write.key)?.map(|found| {
                let (value, ends) = found.value();
                (value.to_owned(), ends)
            });
            let alive = there.as_ref().filter(|(_, ends)| *ends > now).map(|(value, ends)| (&**value, *ends));
            let was_alive = alive.is_some();
            let next = match (&write.what, alive) {
                (What::Mark(mark, expires_at), _) => Some(strengthened(alive, *mark, *expires_at)),
                (What::Put(value, until), _) => Some((value.clone(), *until)),
                (What::Touch(until), Some((value, _))) => Some((value.to_owned(), *until)),
                (What::Swap { old, new, until, by }, Some((value, _))) if value == old && now <= *by => {
                    Some((new.clone(), *until))
                }
                // What is over leaves with the others.
                (What::Touch(_) | What::Swap { .. } | What::Remove, _) => None,
            };
            all_done.push(next.is_some() || (was_alive && matches!(write.what, What::Remove)));
            if next.is_none() && !matches!(write.what, What::Remove) {
                continue;
            }
            if let Some((_, old)) = &there {
                ends.remove((*old, &*write.key))?;
                entries.remove(&*write.key)?;
            }
            if let Some((value, end)) = next {
                entries.insert(&*write.key, (&*value, end))?;
                ends.insert((end, &*write.key), ())?;
            }
        }
        let mut over = Vec::new();
        for end in ends.range(..(over_by, ""))?.take(SWEPT) {
            let (end, _) = end?;
            let (end, key) = end.value();
            over.push((end, key.to_owned()));
        }
        is_changed |= !over.is_empty();
        for (end, key) in over {
            ends.remove((end, &*key))?;
            entries.remove(&*key)?;
        }
    }
    if is_changed {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(all_done)
}
