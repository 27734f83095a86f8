//! Who sends a request, and whether the sender may: tokens, rights of routes, pages of other sites.

pub(crate) mod bearer;
pub(crate) mod origin;
pub(crate) mod route_rights;
pub mod tokens;
