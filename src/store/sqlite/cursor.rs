//! Page cursors: the last id of a page, bound to the listing it came from.
//!
//! A cursor names a place in the order of ids, not a row, so writes between two pages shift nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::{TenantId, hash_parts};
use crate::store::StoreError;

const CHECK_BYTES: usize = 8;

/// A cursor that continues after `last`; `listing` is what tells it from the tenant's others.
pub(super) fn encode(tenant: &TenantId, listing: &str, last: &str) -> String {
    let mut bytes = check(tenant, listing, last).to_vec();
    bytes.extend_from_slice(last.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The id after which to go on. Refuses what [`encode`] did not make for this very listing.
pub(super) fn decode(tenant: &TenantId, listing: &str, cursor: &str) -> Result<String, StoreError> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (found, last) = bytes.split_first_chunk::<CHECK_BYTES>()?;
        let last = std::str::from_utf8(last).ok()?;
        (*found == check(tenant, listing, last)).then(|| last.to_owned())
    };
    read().ok_or_else(|| StoreError::InvalidCursor { what: cursor.chars().take(80).collect() })
}

fn check(tenant: &TenantId, listing: &str, last: &str) -> [u8; CHECK_BYTES] {
    let parts = [b"cursor".as_slice(), tenant.as_str().as_bytes(), listing.as_bytes(), last.as_bytes()];
    let mut head = [0; CHECK_BYTES];
    head.copy_from_slice(&hash_parts(&parts)[..CHECK_BYTES]);
    head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_leads_back_to_its_place_in_its_own_listing_only(last in "\\PC{1,40}", other in "[a-z]{1,8}") {
            let tenant = TenantId::new("t").unwrap();

            let cursor = encode(&tenant, "c", &last);

            prop_assert_eq!(decode(&tenant, "c", &cursor).unwrap(), last);
            if other != "t" {
                prop_assert!(decode(&TenantId::new(&other).unwrap(), "c", &cursor).is_err());
            }
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC{0,60}") {
            let tenant = TenantId::new("t").unwrap();

            prop_assert!(decode(&tenant, "c", &text).is_err());
        }
    }
}
