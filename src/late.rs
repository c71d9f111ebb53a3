//! A cell for a shared value that most owners never get: it costs nothing until the value comes.
//!
//! A cell that can be swapped under its readers has to be looked for among all threads' reads when it goes, whether it
//! ever held anything or not. Of what is remembered by the tens of thousands that would be most of what forgetting one costs.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

/// A shared value that may come later, and be replaced.
pub struct Late<T>(OnceLock<ArcSwapOption<T>>);

impl<T> Late<T> {
    /// The value, if it has come.
    #[must_use]
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.get()?.load_full()
    }

    /// The same without a count of its own, for no longer than a look.
    #[must_use]
    pub fn peek(&self) -> Option<Guard<Option<Arc<T>>>> {
        self.0.get().map(ArcSwapOption::load)
    }

    /// Puts a value there, in the place of the one before.
    pub fn set(&self, value: Arc<T>) {
        self.0.get_or_init(ArcSwapOption::empty).store(Some(value));
    }
}

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> fmt::Debug for Late<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Late(set)" } else { "Late" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_once_and_is_replaced_after() {
        let late = Late::default();
        assert!(late.get().is_none() && late.peek().is_none());
        for value in [1, 2] {
            late.set(Arc::new(value));
            assert_eq!(late.get().as_deref(), Some(&value));
            assert_eq!(late.peek().and_then(|known| known.as_deref().copied()), Some(value));
        }
    }
}
