//! Who is asking. Every store, index and cache call takes a [`TenantScope`] first; no call takes a bare id.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Principal, TenantId};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    Search,
    Answer,
    Write,
    Admin,
}

super::ledger::words!(Permission: Search = "search", Answer = "answer", Write = "write", Admin = "admin");

/// Which documents of the tenant can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visibility {
    /// All of them, whatever their ACL: for those who may write.
    All,
    /// Those without an ACL, and those whose ACL names one of these.
    Principals(BTreeSet<Principal>),
}

/// A tenant, and what the caller may see and do inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantScope {
    pub tenant: TenantId,
    pub visibility: Visibility,
    pub permissions: BTreeSet<Permission>,
    /// Id of the API key that asks; `None` inside the process and where no keys are configured.
    pub key_id: Option<std::sync::Arc<str>>,
}

impl TenantScope {
    /// Everything inside one tenant: for the process itself and for the owner of a loopback server.
    pub fn everything(tenant: TenantId) -> Self {
        let permissions = [Permission::Search, Permission::Answer, Permission::Write, Permission::Admin];
        Self { tenant, visibility: Visibility::All, permissions: permissions.into(), key_id: None }
    }

    /// True if the key may do this; `Admin` may do everything.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission) || self.permissions.contains(&Permission::Admin)
    }

    /// True if a document with this ACL can be seen; `None` is "everyone in the tenant".
    pub fn sees(&self, acl: Option<&[Principal]>) -> bool {
        match (&self.visibility, acl) {
            (Visibility::All, _) | (_, None) => true,
            (Visibility::Principals(mine), Some(acl)) => acl.iter().any(|one| mine.contains(one)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_with_an_acl_is_seen_by_those_it_names_only() {
        let eng = Principal::new("group:eng").unwrap();
        let mut scope = TenantScope::everything(TenantId::new("acme").unwrap());

        scope.visibility = Visibility::Principals(BTreeSet::new());
        assert!(scope.sees(None));
        assert!(!scope.sees(Some(std::slice::from_ref(&eng))));
        assert!(!scope.sees(Some(&[])));

        scope.visibility = Visibility::Principals([eng.clone()].into());
        assert!(scope.sees(Some(&[eng])));
    }
}
