//! Names of fields, known by how they were written before.
//!
//! A service writes the same few names into all of its answers. To see that one is the same as before costs a tenth of
//! taking it apart byte by byte. Each worker has a place for each of some names, and whoever comes to a place that is
//! taken by another one takes it over: whatever services write, it stays as large as it is.

use std::cell::RefCell;

use http::HeaderName;
use smallvec::SmallVec;

use super::Malformed;

/// Places for names.
const PLACES: usize = 64;
/// Longest name that is remembered, in bytes.
const LONGEST: usize = 32;

/// A name as it was written, and what it is.
type Known = Option<(SmallVec<[u8; LONGEST]>, HeaderName)>;

thread_local! {
    static KNOWN: RefCell<[Known; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

/// The name that is written so (RFC 9110 §5.1).
///
/// # Errors
/// [`Malformed`] for what is none.
pub(super) fn name(written: &[u8]) -> Result<HeaderName, Malformed> {
    let read = || HeaderName::from_bytes(written).map_err(|_| Malformed);
    if written.len() > LONGEST {
        return read();
    }
    KNOWN.with_borrow_mut(|known| {
        let Some(place) = known.get_mut(place(written)) else { return read() };
        if let Some((_, name)) = place.as_ref().filter(|(known, _)| **known == *written) {
            return Ok(name.clone());
        }
        let name = read()?;
        *place = Some((SmallVec::from_slice(written), name.clone()));
        Ok(name)
    })
}

/// Names that services use differ in their lengths and at their ends; by these factors the twelve most common ones have
/// places of their own.
fn place(written: &[u8]) -> usize {
    let end = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(*byte));
    (written.len() * 63 + end(written.first()) * 61 + end(written.last()) * 9) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_names_have_places_of_their_own() {
        let names = [
            "content-type",
            "content-length",
            "date",
            "server",
            "connection",
            "cache-control",
            "etag",
            "vary",
            "expires",
            "last-modified",
            "set-cookie",
            "location",
        ];
        let mut places: Vec<usize> = names.iter().map(|name| place(name.as_bytes())).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), names.len());
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_what_was_read(names in proptest::collection::vec("[A-Za-c\\- :é]{0,4}|[a-z]{30,34}", 1..200)) {
            for name in &names {
                let expected = HeaderName::from_bytes(name.as_bytes()).ok();
                prop_assert_eq!(super::name(name.as_bytes()).ok(), expected, "{}", name);
            }
        }
    }
}
