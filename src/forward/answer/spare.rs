//! A map for the fields of the next answer: that of a request that has been answered, empty again.
//!
//! A map is two blocks of memory, neither of them small. The server's side does the same the other way round: the map of
//! an answer that is out becomes that of the next request. So the same few maps go round, and none is made anew.

use std::cell::Cell;

use http::HeaderMap;

/// Most fields that there were, or is room for, in a map that is kept.
const MOST: usize = 64;

thread_local! {
    static SPARE: Cell<Option<HeaderMap>> = const { Cell::new(None) };
}

/// A map without fields, with room for some.
pub(super) fn take(fields: usize) -> HeaderMap {
    SPARE.take().unwrap_or_else(|| HeaderMap::with_capacity(fields))
}

/// Keeps the map of a request that has been answered, without its fields.
pub fn keep_map(mut headers: HeaderMap) {
    // Those after the first of a name lie elsewhere, and are not in its capacity.
    if headers.capacity() <= MOST && headers.len() <= MOST {
        headers.clear();
        SPARE.set(Some(headers));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{COOKIE, VIA};

    use super::*;

    #[test]
    fn nothing_of_one_request_is_in_the_answer_to_another() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "b=2"] {
            headers.append(COOKIE, HeaderValue::from_static(value));
        }
        headers.insert(VIA, HeaderValue::from_static("1.1 a"));
        keep_map(headers);
        let mut again = take(4);
        assert!(again.is_empty() && again.iter().next().is_none() && again.get(VIA).is_none());
        again.append(COOKIE, HeaderValue::from_static("c=3"));
        assert_eq!(again.get_all(COOKIE).iter().collect::<Vec<_>>(), ["c=3"]);
        assert!(take(4).is_empty(), "it is given once");
        let mut large = HeaderMap::new();
        for _ in 0..=MOST {
            large.append(COOKIE, HeaderValue::from_static(""));
        }
        for large in [large, HeaderMap::with_capacity(MOST * 2)] {
            keep_map(large);
            assert_eq!(take(0).capacity(), 0, "a large one is not kept");
        }
    }
}
