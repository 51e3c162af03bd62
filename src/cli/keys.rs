//! `plumb config new-key`: a key for a client, and the stanza that lets it in.

use std::collections::BTreeSet;

use anyhow::bail;

use crate::domain::{Permission, TenantId};

/// The secret, shown this once, and the stanza for the settings file, which holds its digest only.
pub fn new_key(tenant: &str, scopes: &[String]) -> anyhow::Result<String> {
    let tenant = TenantId::new(tenant)?;
    let permissions = scopes.iter().map(|scope| permission(scope)).collect::<anyhow::Result<BTreeSet<_>>>()?;
    let (secret, settings) = crate::http::new_key(tenant, permissions);
    let stanza = toml::to_string(&settings)?;
    Ok(format!("# give this to the client; it is not shown again\n{secret}\n\n[[auth.keys]]\n{stanza}"))
}

fn permission(scope: &str) -> anyhow::Result<Permission> {
    Ok(match scope {
        "search" => Permission::Search,
        "answer" => Permission::Answer,
        "write" => Permission::Write,
        "admin" => Permission::Admin,
        other => bail!("{other} is not a scope: use search, answer, write or admin"),
    })
}
