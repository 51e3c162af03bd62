//! Who is calling: keys from the configuration, compared in constant time.
//!
//! A key is `plumb_<id>_<secret>`; only the BLAKE3 digest of the secret is kept. The secret has 256 random bits, so no
//! slow hash is needed. Unknown, malformed, wrong, revoked and expired keys get one and the same answer.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::domain::{Permission, Principal, TenantId, TenantScope, Visibility};

use super::problem::{Problem, ProblemKind};

/// The keys that are known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// None: everybody who reaches the server may do everything in the tenant `default`, and therefore the server
    /// listens on loopback only.
    pub keys: Vec<KeySettings>,
}

/// One key, as `plumb config new-key` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// The public part of the key: letters and digits.
    pub id: String,
    /// BLAKE3 of the secret part, in hexadecimal.
    pub secret_blake3: String,
    pub tenant: TenantId,
    /// What the key may do; `admin` includes the others.
    pub permissions: BTreeSet<Permission>,
    /// As whom the key sees documents with an ACL. A key that may write sees everything unless a request narrows it.
    #[serde(default)]
    pub principals: BTreeSet<Principal>,
    /// RFC 3339; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// A revoked key stays in the list so that its id is not used again.
    #[serde(default)]
    pub revoked: bool,
}

/// Why keys or an address cannot be served with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("key {id}: {fault}")]
    Key { id: String, fault: &'static str },
    #[error(
        "no keys are configured, so anybody who reaches the server may do everything: it listens on loopback \
         addresses only, not on {address}; make a key with `plumb config new-key` first"
    )]
    OpenToOthers { address: SocketAddr },
}

/// Refuses to serve without keys on an address that others can reach.
pub fn check_listen(address: SocketAddr, settings: &AuthSettings) -> Result<(), AuthError> {
    if settings.keys.is_empty() && !address.ip().is_loopback() {
        return Err(AuthError::OpenToOthers { address });
    }
    Ok(())
}

/// A new random key: its plain form, to be shown once, and what belongs into the configuration.
pub fn new_key(tenant: TenantId, permissions: BTreeSet<Permission>) -> (String, KeySettings) {
    let id = hex(&crate::telemetry::random_bytes::<6>());
    let secret = hex(&crate::telemetry::random_bytes::<32>());
    let plain = format!("{KEY_PREFIX}{id}_{secret}");
    let secret_blake3 = blake3::hash(secret.as_bytes()).to_hex().to_string();
    let principals = BTreeSet::new();
    (plain, KeySettings { id, secret_blake3, tenant, permissions, principals, expires_at: None, revoked: false })
}

const KEY_PREFIX: &str = "plumb_";
/// Longest key that is looked at; real ones have 83 bytes.
const KEY_MAX_BYTES: usize = 256;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// True if a text has the form of a key, so that it can be kept out of URLs.
pub(super) fn looks_like_a_key(text: &str) -> bool {
    text.strip_prefix(KEY_PREFIX).and_then(|rest| rest.split_once('_')).is_some_and(|(id, secret)| {
        !id.is_empty() && secret.len() >= 32 && secret.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Whoever is calling, known before anything of the body is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caller {
    pub tenant: TenantId,
    permissions: BTreeSet<Permission>,
    principals: BTreeSet<Principal>,
    /// `None` where no keys are configured.
    key_id: Option<Arc<str>>,
}

impl Caller {
    /// What the caller may see and do.
    pub(super) fn scope(&self) -> TenantScope {
        self.scope_as(None)
    }

    /// The scope of a request that says as whom it asks.
    ///
    /// A key that may write sees everything, or what the named principals see. Any other key sees what its own
    /// principals and the named ones see: such a key belongs to a service that knows its users.
    pub(super) fn scope_as(&self, named: Option<Vec<Principal>>) -> TenantScope {
        let owner = self.may(Permission::Write);
        let visibility = match (owner, named) {
            (true, None) => Visibility::All,
            (true, Some(named)) => Visibility::Principals(named.into_iter().collect()),
            (false, named) => {
                Visibility::Principals(self.principals.iter().cloned().chain(named.into_iter().flatten()).collect())
            }
        };
        TenantScope {
            tenant: self.tenant.clone(),
            visibility,
            permissions: self.permissions.clone(),
            key_id: self.key_id.clone(),
        }
    }

    /// True if the key may do this; `Admin` may do everything.
    pub(super) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission) || self.permissions.contains(&Permission::Admin)
    }
}

/// Finds the caller of a request.
pub(super) struct Authenticator {
    keys: HashMap<String, Key>,
}

struct Key {
    digest: [u8; 32],
    expires_at: Option<Timestamp>,
    revoked: bool,
    caller: Caller,
}

impl Authenticator {
    pub(super) fn new(settings: &AuthSettings) -> Result<Self, AuthError> {
        let mut keys = HashMap::with_capacity(settings.keys.len());
        for key in &settings.keys {
            let fault = |fault| AuthError::Key { id: key.id.clone(), fault };
            if key.id.is_empty() || !key.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(fault("the id must consist of letters and digits"));
            }
            let digest = blake3::Hash::from_hex(&key.secret_blake3)
                .map_err(|_| fault("secret_blake3 must be 64 hexadecimal digits"))?;
            let caller = Caller {
                tenant: key.tenant.clone(),
                permissions: key.permissions.clone(),
                principals: key.principals.clone(),
                key_id: Some(key.id.as_str().into()),
            };
            let entry = Key { digest: *digest.as_bytes(), expires_at: key.expires_at, revoked: key.revoked, caller };
            if keys.insert(key.id.clone(), entry).is_some() {
                return Err(fault("the id is used twice"));
            }
        }
        Ok(Self { keys })
    }

    /// True if no keys are configured.
    pub(super) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// The caller, or 401 (400 for contradicting headers). Looks at headers only.
    pub(super) fn caller(&self, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Problem> {
        if self.is_open() {
            return Ok(owner());
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or_else(unauthenticated)?;
        if values.next().is_some() {
            return Err(Problem::new(ProblemKind::Malformed, "Authorization is given more than once"));
        }
        let secret = value.to_str().ok().and_then(bearer).ok_or_else(unauthenticated)?;
        self.check(secret, now).cloned().ok_or_else(unauthenticated)
    }

    fn check(&self, plain: &str, now: Timestamp) -> Option<&Caller> {
        if plain.len() > KEY_MAX_BYTES {
            return None;
        }
        let (id, secret) = plain.strip_prefix(KEY_PREFIX)?.split_once('_')?;
        let digest = blake3::hash(secret.as_bytes());
        let key = self.keys.get(id);
        // An unknown id is compared too, so that both cases do the same work.
        let expected = key.map_or([0; 32], |key| key.digest);
        let equal = bool::from(digest.as_bytes().ct_eq(&expected));
        key.filter(|key| equal && !key.revoked && key.expires_at.is_none_or(|end| now < end)).map(|key| &key.caller)
    }
}

fn owner() -> Caller {
    let everything = TenantScope::everything(TenantId::new("default").expect("a plain word is a tenant"));
    Caller { tenant: everything.tenant, permissions: everything.permissions, principals: BTreeSet::new(), key_id: None }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

fn unauthenticated() -> Problem {
    Problem::new(ProblemKind::Unauthenticated, "send a valid key as `Authorization: Bearer <key>`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::new("acme").unwrap()
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    fn with(change: impl FnOnce(&mut KeySettings)) -> (String, Authenticator) {
        let (plain, mut key) = new_key(tenant(), [Permission::Search].into());
        change(&mut key);
        (plain, Authenticator::new(&AuthSettings { keys: vec![key] }).unwrap())
    }

    #[test]
    fn only_the_exact_live_key_opens() {
        let (plain, door) = with(|_| ());
        let now = Timestamp::now();
        let status =
            |values: &[&str]| door.caller(&headers(values), now).map_err(|problem| problem.kind.status().as_u16());

        assert_eq!(status(&[&format!("Bearer {plain}")]).unwrap().tenant, tenant());
        assert_eq!(status(&[&format!("bearer {plain}")]).unwrap().tenant, tenant());
        let last_changed = format!("Bearer {}x", &plain[..plain.len() - 1]);
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", "Bearer plumb_", "Bearer ' OR 1=1--", &last_changed, &plain]
        {
            assert_eq!(status(&[wrong]).unwrap_err(), 401, "{wrong}");
        }
        assert_eq!(status(&[]).unwrap_err(), 401);
        assert_eq!(status(&[&format!("Bearer {}", "a".repeat(1 << 20))]).unwrap_err(), 401);
        assert_eq!(status(&[&format!("Bearer {plain}"), "Bearer x"]).unwrap_err(), 400);
    }

    #[test]
    fn revoked_and_expired_keys_are_unknown_keys() {
        let now = Timestamp::now();
        let changes: [fn(&mut KeySettings); 2] =
            [|key| key.revoked = true, |key| key.expires_at = Some(Timestamp::UNIX_EPOCH)];
        let unknown = with(|_| ()).1.caller(&headers(&["Bearer plumb_a_b"]), now).unwrap_err();

        for change in changes {
            let (plain, door) = with(change);
            let problem = door.caller(&headers(&[&format!("Bearer {plain}")]), now).unwrap_err();
            assert_eq!((problem.kind, problem.detail), (unknown.kind, unknown.detail.clone()));
        }
    }

    #[test]
    fn keys_are_random_and_their_secret_is_not_kept() {
        let (first, settings) = new_key(tenant(), BTreeSet::new());
        let (second, _) = new_key(tenant(), BTreeSet::new());

        assert_ne!(first, second);
        assert!(looks_like_a_key(&first));
        let secret = first.rsplit('_').next().unwrap();
        assert_eq!(secret.len(), 64);
        assert!(!format!("{settings:?}").contains(secret));
    }

    #[test]
    fn a_server_without_keys_is_for_loopback() {
        let open = AuthSettings::default();
        let (_, key) = new_key(tenant(), BTreeSet::new());
        let closed = AuthSettings { keys: vec![key] };

        assert!(check_listen("127.0.0.1:7700".parse().unwrap(), &open).is_ok());
        assert!(check_listen("[::1]:7700".parse().unwrap(), &open).is_ok());
        assert!(check_listen("0.0.0.0:7700".parse().unwrap(), &open).unwrap_err().to_string().contains("new-key"));
        assert!(check_listen("0.0.0.0:7700".parse().unwrap(), &closed).is_ok());
    }

    #[test]
    fn principals_narrow_owners_and_widen_readers() {
        let ann = Principal::new("user:ann").unwrap();
        let eng = Principal::new("group:eng").unwrap();
        let reader = Caller {
            tenant: tenant(),
            permissions: [Permission::Search].into(),
            principals: [eng.clone()].into(),
            key_id: None,
        };
        let writer = Caller { permissions: [Permission::Write].into(), ..reader.clone() };

        assert_eq!(reader.scope().visibility, Visibility::Principals([eng.clone()].into()));
        assert_eq!(
            reader.scope_as(Some(vec![ann.clone()])).visibility,
            Visibility::Principals([eng, ann.clone()].into())
        );
        assert_eq!(writer.scope().visibility, Visibility::All);
        assert_eq!(writer.scope_as(Some(vec![ann.clone()])).visibility, Visibility::Principals([ann].into()));
        assert_eq!(writer.scope_as(Some(vec![])).visibility, Visibility::Principals(BTreeSet::new()));
    }

    #[test]
    fn keys_that_cannot_work_are_refused_by_name() {
        let (_, key) = new_key(tenant(), BTreeSet::new());
        let bad = |change: fn(&mut KeySettings)| {
            let mut changed = key.clone();
            change(&mut changed);
            Authenticator::new(&AuthSettings { keys: vec![key.clone(), changed] }).err().unwrap().to_string()
        };

        assert!(bad(|_| ()).contains("used twice"));
        assert!(bad(|key| key.id = "a_b".to_owned()).contains("letters and digits"));
        assert!(
            bad(|key| {
                key.id = "other".to_owned();
                key.secret_blake3 = "00".to_owned();
            })
            .contains("64 hexadecimal")
        );
    }
}
