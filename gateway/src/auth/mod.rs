//! Authentication and authorization of REST requests: API tokens, the right that each route needs,
//! and the refusal of requests that pages of other sites make.

pub(crate) mod bearer;
pub(crate) mod origin;
pub(crate) mod route_rights;
pub mod tokens;
