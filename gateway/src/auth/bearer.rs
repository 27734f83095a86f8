//! Authentication of requests under `/api`: the one place that decides who is admitted.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cstore_types::{ErrorCode, Tenant};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::auth::tokens::{Right, Rights, Token, TokenFile};
use crate::error::ApiError;

/// Rule by which this gateway admits requests.
#[derive(Debug)]
pub(crate) struct Auth {
    /// True if requests without a token are admitted, as the default tenant with all rights.
    pub(crate) anonymous: bool,
    pub(crate) tokens: Arc<TokenFile>,
}

/// Tenant and rights of an admitted request. Handlers get it as an extension, and only for routes
/// that are listed.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) tenant: Tenant,
    rights: Rights,
}

impl Access {
    /// # Errors
    /// `permission_denied` when the right is missing.
    pub(crate) fn require(&self, right: Right) -> Result<(), ApiError> {
        if self.rights.has(right) {
            return Ok(());
        }
        let text = format!("the token does not have the right to {}", right.as_str());
        Err(ApiError::new(ErrorCode::PermissionDenied, text))
    }

    /// # Errors
    /// `permission_denied` for named tenants: what is asked for tells of what others have stored.
    pub(crate) fn require_default_tenant(&self) -> Result<(), ApiError> {
        if self.tenant.is_default() {
            return Ok(());
        }
        let text = "this tells of the whole cluster and is for the default tenant only";
        Err(ApiError::new(ErrorCode::PermissionDenied, text))
    }

    /// Returns the names of the rights.
    pub(crate) fn rights(&self) -> Vec<&'static str> {
        let all = Right::ALL.into_iter();
        all.filter(|right| self.rights.has(*right))
            .map(Right::as_str)
            .collect()
    }

    /// Returns the tenant as the inner services expect it.
    pub(crate) fn tenant(&self) -> String {
        self.tenant.as_str().to_owned()
    }
}

impl Auth {
    /// Returns the access of a request. A token that is sent must be valid, also where none is
    /// needed.
    ///
    /// # Errors
    /// `unauthenticated` with what is wrong, but for secrets.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<Access, ApiError> {
        let refuse = |text: &str| Err(ApiError::new(ErrorCode::Unauthenticated, text));
        let mut found = headers.get_all(AUTHORIZATION).iter();
        let shown = match (found.next(), found.next()) {
            (None, _) if self.anonymous => {
                return Ok(Access {
                    tenant: Tenant::default(),
                    rights: Rights::ALL,
                });
            }
            (None, _) => return refuse("a token is needed: authorization: Bearer cst_…"),
            (Some(_), Some(_)) => return refuse("there is more than one header authorization"),
            (Some(value), None) => value.to_str().ok().and_then(token_of),
        };
        let Some(token) = shown else {
            return refuse(
                "header authorization holds no token; expected is: Bearer cst_<id>_<secret>",
            );
        };
        match self.tokens.find(&token) {
            Ok(entry) => Ok(Access {
                tenant: entry.tenant().clone(),
                rights: entry.rights(),
            }),
            Err(refused) => refuse(&refused.to_string()),
        }
    }
}

/// The token of a header: a bearer, or the password of a client that knows only names and
/// passwords.
fn token_of(value: &str) -> Option<Token> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Token::parse(rest.trim());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    Token::parse(pair.split_once(':')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tokens::Entry;
    use std::os::unix::fs::PermissionsExt;

    fn auth(anonymous: bool) -> (Auth, Token) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-tokens");
        let token = Token::generate().unwrap();
        let tenant = Tenant::new("acme").unwrap();
        std::fs::write(
            &path,
            Entry::new(&token, tenant, Rights::of(&[Right::Read]), None)
                .unwrap()
                .to_string(),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (
            Auth {
                anonymous,
                tokens: Arc::new(TokenFile::open(path).unwrap()),
            },
            token,
        )
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (AUTHORIZATION, value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn i13_a_good_token_comes_in_with_its_tenant_and_rights_however_it_is_shown() {
        let (auth, token) = auth(false);
        let text = token.expose();
        for value in [
            format!("Bearer {text}"),
            format!("bearer {text}"),
            format!("Basic {}", STANDARD.encode(format!("anybody:{text}"))),
        ] {
            let access = auth.check(&headers(&[&value])).unwrap();
            assert_eq!(access.tenant(), "acme", "{value}");
            assert!(access.require(Right::Read).is_ok());
            let denied = access.require(Right::Delete).unwrap_err();
            assert_eq!(denied.code(), ErrorCode::PermissionDenied);
        }
    }

    #[test]
    fn i13_everything_else_is_refused_without_saying_a_secret() {
        for anonymous in [false, true] {
            let (auth, token) = auth(anonymous);
            let text = token.expose();
            let stranger = Token::generate().unwrap().expose();
            for values in [
                &[&*format!("Bearer {stranger}")][..],
                &[&*format!("Bearer {text}"), &*format!("Bearer {text}")],
                &[&*format!("Digest {text}")],
                &[&*text],
                &["Bearer"],
                &["Basic !"],
                &[""],
            ] {
                let refused = auth.check(&headers(values)).unwrap_err();
                assert_eq!(refused.code(), ErrorCode::Unauthenticated, "{values:?}");
                assert!(!format!("{refused:?}").contains(&text[17..]), "{refused:?}");
            }
            assert_eq!(auth.check(&HeaderMap::new()).is_ok(), anonymous);
        }
    }
}
